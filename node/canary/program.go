package canary

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
)

// The program blocks SIGTERM and SIGINT, waits for one of them and ends with 0.
// Blocked, they reach also the first process of a container: the kernel drops
// what such a process neither handles nor blocks (pid_namespaces(7)). It opens
// nothing, writes nothing, and lives on its stack.

// signals is a mask (sigprocmask(2)) of SIGINT, 2, and SIGTERM, 15.
const signals = 1<<(2-1) | 1<<(15-1)

// programs are the machine's code by GOARCH: those that the node's own image has.
var programs = map[string]struct {
	machine elf.Machine
	code    []byte
}{
	"amd64": {elf.EM_X86_64, []byte{
		0x68, signals & 0xff, signals >> 8, 0, 0, // push   signals
		0x48, 0x89, 0xe6, // mov    rsi, rsp
		0x31, 0xff, //       xor    edi, edi        SIG_BLOCK
		0x31, 0xd2, //       xor    edx, edx
		0x6a, 8, //          push   8               bytes of a mask
		0x41, 0x5a, //       pop    r10
		0x6a, 14, //         push   14              rt_sigprocmask
		0x58,       //       pop    rax
		0x0f, 0x05, //       syscall
		0x48, 0x89, 0xe7, // mov    rdi, rsp        here it waits again,
		0x31, 0xf6, //       xor    esi, esi
		0x31, 0xd2, //       xor    edx, edx        without a limit
		0xb8, 128, 0, 0, 0, // mov  eax, 128        rt_sigtimedwait
		0x0f, 0x05, //       syscall
		0x85, 0xc0, //       test   eax, eax
		0x78, 0xee, //       js     -18             if it was interrupted (SIGCONT)
		0x31, 0xff, //       xor    edi, edi
		0xb8, 231, 0, 0, 0, // mov  eax, 231        exit_group
		0x0f, 0x05, //       syscall
	}},
	"arm64": {elf.EM_AARCH64, words(
		0xd2800009|signals<<5, // mov  x9, signals
		0xf81f0fe9,            // str  x9, [sp, -16]!
		0xd2800000,            // mov  x0, 0        SIG_BLOCK
		0x910003e1,            // mov  x1, sp
		0xd2800002,            // mov  x2, 0
		0xd2800103,            // mov  x3, 8        bytes of a mask
		0xd28010e8,            // mov  x8, 135      rt_sigprocmask
		0xd4000001,            // svc  0
		0x910003e0,            // mov  x0, sp       here it waits again,
		0xd2800001,            // mov  x1, 0
		0xd2800002,            // mov  x2, 0        without a limit
		0xd2800103,            // mov  x3, 8
		0xd2801128,            // mov  x8, 137      rt_sigtimedwait
		0xd4000001,            // svc  0
		0xb7ffff40,            // tbnz x0, 63, -24  if it was interrupted (SIGCONT)
		0xd2800000,            // mov  x0, 0
		0xd2800bc8,            // mov  x8, 94       exit_group
		0xd4000001,            // svc  0
	)},
}

func words(code ...uint32) (out []byte) {
	for _, w := range code {
		out = binary.LittleEndian.AppendUint32(out, w)
	}
	return out
}

// address is where the program is loaded: at a multiple of the largest page that
// these machines have, of 64 KiB.
const (
	address  = 0x400000
	pageSize = 0x10000
)

// executable is the program as an ELF file: its header, two segments, the code.
func executable(machine elf.Machine, code []byte) []byte {
	const headers = 64 + 2*56 // elf.Header64 and two elf.Prog64
	size := uint64(headers + len(code))
	header := elf.Header64{
		Type: uint16(elf.ET_EXEC), Machine: uint16(machine), Version: uint32(elf.EV_CURRENT),
		Entry: address + headers, Phoff: 64, Ehsize: 64, Phentsize: 56, Phnum: 2, Shentsize: 64,
	}
	copy(header.Ident[:], elf.ELFMAG)
	header.Ident[elf.EI_CLASS] = byte(elf.ELFCLASS64)
	header.Ident[elf.EI_DATA] = byte(elf.ELFDATA2LSB)
	header.Ident[elf.EI_VERSION] = byte(elf.EV_CURRENT)
	segments := []elf.Prog64{
		{Type: uint32(elf.PT_LOAD), Flags: uint32(elf.PF_R | elf.PF_X), Vaddr: address, Paddr: address, Filesz: size, Memsz: size, Align: pageSize},
		// Its stack holds no code.
		{Type: uint32(elf.PT_GNU_STACK), Flags: uint32(elf.PF_R | elf.PF_W), Align: 16},
	}
	var file bytes.Buffer
	for _, part := range []any{header, segments, code} {
		if err := binary.Write(&file, binary.LittleEndian, part); err != nil {
			panic(err) // all are of a fixed size
		}
	}
	return file.Bytes()
}
