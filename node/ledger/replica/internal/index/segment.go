package index

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"sort"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/pyrsia/pyrsia-operator/node/internal/durable"
)

// A segment is the index of the blocks [from, to) in one file that is never
// changed. docs/ledger.md describes the file. It is mapped into memory, and read
// by copying whole pages out of it, each of which is compared with the checksum
// that it had when the whole file was verified: a file that is cut or altered
// under a running node is an error, and never an answer.
type segment struct {
	layout
	root   tlog.Hash // of the ledger with to blocks: tells whose index this is
	file   string
	mapped []byte // only fetch may look at it

	sums   []uint32    // CRC-32C of each page
	first  []record    // of each page of records
	keys   filter      // of all records
	images []imageLine // sorted
}

// layout is where the parts of a segment's file are. Each begins at a page.
type layout struct {
	from, to int64
	records  int // how many
	names    int // bytes
}

const (
	// segmentMagic has the index's version: it grows when more kinds of blocks
	// are indexed, because the files of an earlier program lack them.
	segmentMagic  = "pyrsia index 4\n\x00"
	segmentHeader = len(segmentMagic) + 4*8 + tlog.HashSize // what follows it is the checksum
	segmentSuffix = ".seg"

	pageSize   = 1 << 10
	offsetSize = 4
	recordSize = 8
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// record is one key of one block: the key's 48 bits, and 16 bits that are the
// block's height above its segment's first one.
type record uint64

func makeRecord(key Key, above int) record { return record(key)<<16 | record(above) }

func (r record) key() Key { return Key(r >> 16) }

func pages(bytes int) int { return (bytes + pageSize - 1) / pageSize * pageSize }

func (l layout) blocks() int    { return int(l.to - l.from) }
func (l layout) leavesAt() int  { return pages(segmentHeader + sha256.Size) }
func (l layout) offsetsAt() int { return l.leavesAt() + pages(l.blocks()*tlog.HashSize) }
func (l layout) recordsAt() int { return l.offsetsAt() + pages(l.blocks()*offsetSize) }
func (l layout) namesAt() int   { return l.recordsAt() + pages(l.records*recordSize) }
func (l layout) size() int      { return l.namesAt() + l.names }

// writeSegment writes the segment of a tail. root is the ledger's at its end.
func writeSegment(folder string, t *tail, root tlog.Hash) (*segment, error) {
	images := names{}
	images.add(t.names)
	lines := images.encode()
	l := layout{from: t.from, to: t.end(), records: len(t.records), names: len(lines)}
	data := make([]byte, l.size())
	h := append(data[:0], segmentMagic...)
	for _, v := range []int64{l.from, l.to, int64(l.records), int64(l.names)} {
		h = binary.BigEndian.AppendUint64(h, uint64(v))
	}
	h = append(h, root[:]...)
	copy(data[l.leavesAt():], t.leaves)
	for i, o := range t.offsets {
		binary.BigEndian.PutUint32(data[l.offsetsAt()+i*offsetSize:], o)
	}
	for i, r := range sortByKey(t.records) {
		binary.BigEndian.PutUint64(data[l.recordsAt()+i*recordSize:], uint64(r))
	}
	copy(data[l.namesAt():], lines)
	sum := segmentSum(data)
	copy(data[len(h):], sum[:])
	name := filepath.Join(folder, fmt.Sprintf("%012d-%012d%s", l.from, l.to, segmentSuffix))
	// Crash: there may be a part of the segment, which its checksum tells; its
	// blocks are indexed again from the tiles.
	if err := durable.Create(name, data); err != nil {
		return nil, fmt.Errorf("writing the index: %w", err)
	}
	return openSegment(name, data)
}

func segmentSum(data []byte) [sha256.Size]byte {
	h := sha256.New()
	h.Write(data[:segmentHeader])
	h.Write(data[segmentHeader+sha256.Size:])
	return [sha256.Size]byte(h.Sum(nil))
}

// readSegment opens a segment and verifies it.
func readSegment(name string) (*segment, error) {
	data, err := os.ReadFile(name)
	if errors.Is(err, syscall.EIO) {
		return nil, &corruptError{name}
	}
	if err != nil {
		return nil, fmt.Errorf("opening the index: %w", err)
	}
	if len(data) < segmentHeader+sha256.Size {
		return nil, &corruptError{name}
	}
	if sum := segmentSum(data); !bytes.Equal(sum[:], data[segmentHeader:segmentHeader+sha256.Size]) {
		return nil, &corruptError{name}
	}
	return openSegment(name, data)
}

// openSegment opens a segment whose content is known and verified.
func openSegment(name string, data []byte) (*segment, error) {
	s := &segment{file: name}
	if err := s.parse(data); err != nil {
		return nil, err
	}
	f, err := os.Open(name)
	if err != nil {
		return nil, fmt.Errorf("opening the index: %w", err)
	}
	defer f.Close()
	if s.mapped, err = syscall.Mmap(int(f.Fd()), 0, s.size(), syscall.PROT_READ, syscall.MAP_SHARED); err != nil {
		return nil, fmt.Errorf("mapping %s: %w", name, err)
	}
	return s, nil
}

func (s *segment) parse(data []byte) error {
	field := func(i int) int64 { return int64(binary.BigEndian.Uint64(data[len(segmentMagic)+i*8:])) }
	s.layout = layout{from: field(0), to: field(1), records: int(field(2)), names: int(field(3))}
	copy(s.root[:], data[segmentHeader-tlog.HashSize:])
	if !bytes.HasPrefix(data, []byte(segmentMagic)) || s.from < 0 || s.to <= s.from || s.to-s.from > SegmentBlocks ||
		s.records < 0 || s.records > len(data) || s.names < 0 || s.names > len(data) || s.size() != len(data) {
		return &corruptError{s.file}
	}
	for page := range slices.Chunk(data, pageSize) {
		s.sums = append(s.sums, crc32.Checksum(page, castagnoli))
	}
	s.keys = newFilter(s.records)
	for i := range s.records {
		r := record(binary.BigEndian.Uint64(data[s.recordsAt()+i*recordSize:]))
		s.keys.add(r.key())
		if i%(pageSize/recordSize) == 0 {
			s.first = append(s.first, r)
		}
	}
	at := s.namesAt()
	for line := range bytes.Lines(data[at:]) {
		repository, _, _ := bytes.Cut(line, []byte{' '})
		s.images = append(s.images, imageLine{string(repository), at, len(line)})
		at += len(line)
	}
	return nil
}

func (s *segment) close() error { return syscall.Munmap(s.mapped) }

// fetch copies bytes out of the file. A file that is shorter by now, or that
// the disk cannot read, is a memory fault; it is made an error here.
func (s *segment) fetch(to []byte, at int) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if fault := recover(); fault != nil {
			err = fmt.Errorf("reading %s: %v", s.file, fault)
		}
	}()
	copy(to, s.mapped[at:])
	return nil
}

// buffers hold what is read from a segment.
var buffers = sync.Pool{New: func() any { return new([]byte) }}

// read hands n bytes at an offset to use, which keeps nothing of them.
func (s *segment) read(at, n int, use func([]byte)) error {
	from := at / pageSize * pageSize
	to := min(pages(at+n), s.size())
	buf := buffers.Get().(*[]byte)
	defer buffers.Put(buf)
	*buf = slices.Grow((*buf)[:0], to-from)[:to-from]
	if err := s.fetch(*buf, from); err != nil {
		return &DamagedError{s, err}
	}
	i := from / pageSize
	for page := range slices.Chunk(*buf, pageSize) {
		if crc32.Checksum(page, castagnoli) != s.sums[i] {
			return &DamagedError{s, &corruptError{s.file}}
		}
		i++
	}
	use((*buf)[at-from:][:n])
	return nil
}

// DamagedError is what is returned when a segment cannot be read any more: Remake
// makes it again.
type DamagedError struct {
	segment *segment
	cause   error
}

func (e *DamagedError) Error() string { return e.cause.Error() }
func (e *DamagedError) Unwrap() error { return e.cause }

// corruptError names a file that is not what was written.
type corruptError struct{ path string }

func (e *corruptError) Error() string {
	return e.path + " is corrupt: it is not what the checkpoint commits to"
}

// leaves appends the leaf hashes of n blocks from a height on.
func (s *segment) leaves(to []byte, height int64, n int) (out []byte, err error) {
	at := s.leavesAt() + int(height-s.from)*tlog.HashSize
	err = s.read(at, n*tlog.HashSize, func(b []byte) { out = append(to, b...) })
	return out, err
}

// offset is where in its bundle a block's entry is.
func (s *segment) offset(height int64) (offset uint32, err error) {
	at := s.offsetsAt() + int(height-s.from)*offsetSize
	err = s.read(at, offsetSize, func(b []byte) { offset = binary.BigEndian.Uint32(b) })
	return offset, err
}

// heights yields the blocks below a height that have a key, the newest first.
// It tells whether yield wants more.
func (s *segment) heights(key Key, below int64, yield func(int64) bool) (more bool, err error) {
	if !s.keys.has(key) {
		return true, nil
	}
	more = true
	last := makeRecord(key, int(min(below, s.to)-1-s.from))
	page := sort.Search(len(s.first), func(i int) bool { return s.first[i] > last }) - 1
	for again := true; again && page >= 0; page-- {
		again = s.first[page].key() == key // then the page before may have some too
		n := min(pageSize/recordSize, s.records-page*pageSize/recordSize)
		err := s.read(s.recordsAt()+page*pageSize, n*recordSize, func(b []byte) {
			at := func(i int) record { return record(binary.BigEndian.Uint64(b[i*recordSize:])) }
			i := sort.Search(n, func(i int) bool { return at(i) > last }) - 1
			for ; more && i >= 0 && at(i).key() == key; i-- {
				more = yield(s.from + int64(uint16(at(i))))
			}
		})
		if err != nil || !more {
			return more, err
		}
	}
	return true, nil
}

// imageLine is where the names of a repository's images are.
type imageLine struct {
	repository string
	at, n      int
}

// tags are those of a repository that the segment's blocks name, sorted.
func (s *segment) tags(repository string) (out []string, err error) {
	i, found := slices.BinarySearchFunc(s.images, repository, func(l imageLine, r string) int { return cmp.Compare(l.repository, r) })
	if !found {
		return nil, nil
	}
	err = s.read(s.images[i].at, s.images[i].n, func(b []byte) {
		out = strings.Fields(string(b))[1:]
	})
	return out, err
}

// sortByKey sorts records whose heights ascend: a radix sort of the keys, 16
// bits at a time, which keeps the order of what it holds equal.
func sortByKey(in []record) []record {
	from, to := slices.Clone(in), make([]record, len(in))
	counts := make([]int32, 1<<16+1)
	for shift := 16; shift < 64; shift += 16 {
		clear(counts)
		for _, r := range from {
			counts[int(uint16(r>>shift))+1]++
		}
		for i := 1; i < len(counts); i++ {
			counts[i] += counts[i-1]
		}
		for _, r := range from {
			digit := uint16(r >> shift)
			to[counts[digit]] = r
			counts[digit]++
		}
		from, to = to, from
	}
	return from
}
