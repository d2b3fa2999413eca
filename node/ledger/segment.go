package ledger

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"syscall"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/pyrsia/pyrsia-operator/node/internal/durable"
)

// A segment is the index of the blocks [from, to) in one file that is never
// changed: a header, the records sorted by key and then height, and the image
// names that no earlier segment has, a line each. It is mapped into memory.
type segment struct {
	from, to int64
	root     tlog.Hash // of the ledger with to blocks: tells whose index this is
	records  []byte    // recordSize each, within mapped
	names    []string
	mapped   []byte
	file     string
}

const (
	segmentMagic  = "pyrsia index 1\n\x00"
	segmentHeader = 128
	recordSize    = 16
	segmentSuffix = ".seg"
)

// record is one key of one block.
type record struct {
	key    indexKey
	height int64
}

func compareRecords(a, b record) int {
	return cmp.Or(cmp.Compare(a.key, b.key), cmp.Compare(a.height, b.height))
}

// writeSegment writes a segment of sorted records.
func writeSegment(folder string, from, to int64, root tlog.Hash, records []record, names []string) (*segment, error) {
	data := make([]byte, segmentHeader, segmentHeader+len(records)*recordSize)
	for _, r := range records {
		data = binary.BigEndian.AppendUint64(data, uint64(r.key))
		data = binary.BigEndian.AppendUint64(data, uint64(r.height))
	}
	for _, n := range names {
		data = append(append(data, n...), '\n')
	}
	h := append(data[:0:0], segmentMagic...)
	for _, v := range []uint64{uint64(from), uint64(to), uint64(len(records))} {
		h = binary.BigEndian.AppendUint64(h, v)
	}
	h = append(h, root[:]...)
	sum := sha256.New()
	sum.Write(h)
	sum.Write(data[segmentHeader:])
	copy(data, sum.Sum(h))
	name := filepath.Join(folder, fmt.Sprintf("%012d-%012d%s", from, to, segmentSuffix))
	// Crash: the segment is there whole or not at all; its blocks are indexed
	// again from the tiles.
	if err := durable.WriteFile(name, data); err != nil {
		return nil, fmt.Errorf("writing the index: %w", err)
	}
	return openSegment(name)
}

// openSegment maps a segment and checks it.
func openSegment(name string) (*segment, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, fmt.Errorf("opening the index: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("opening the index: %w", err)
	}
	if info.Size() < segmentHeader {
		return nil, &CorruptError{Path: name}
	}
	data, err := syscall.Mmap(int(f.Fd()), 0, int(info.Size()), syscall.PROT_READ, syscall.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("mapping %s: %w", name, err)
	}
	s := &segment{mapped: data, file: name}
	if err := s.parse(); err != nil {
		return nil, errors.Join(err, s.close())
	}
	// The check has touched every page; queries touch few.
	if err := syscall.Madvise(data, syscall.MADV_DONTNEED); err != nil {
		return nil, errors.Join(fmt.Errorf("mapping %s: %w", name, err), s.close())
	}
	return s, nil
}

func (s *segment) parse() error {
	const sumAt = len(segmentMagic) + 3*8 + tlog.HashSize
	sum := sha256.New()
	sum.Write(s.mapped[:sumAt])
	sum.Write(s.mapped[segmentHeader:])
	if !bytes.HasPrefix(s.mapped, []byte(segmentMagic)) || !bytes.Equal(sum.Sum(nil), s.mapped[sumAt:sumAt+sha256.Size]) {
		return &CorruptError{Path: s.file}
	}
	h := s.mapped[len(segmentMagic):]
	s.from, s.to = int64(binary.BigEndian.Uint64(h)), int64(binary.BigEndian.Uint64(h[8:]))
	count := int(binary.BigEndian.Uint64(h[16:]))
	copy(s.root[:], h[24:])
	body := s.mapped[segmentHeader:]
	if count > len(body)/recordSize || s.from < 0 || s.to <= s.from {
		return &CorruptError{Path: s.file}
	}
	s.records = body[:count*recordSize]
	s.names = strings.Split(strings.TrimSuffix(string(body[count*recordSize:]), "\n"), "\n")
	if s.names[0] == "" {
		s.names = nil
	}
	return nil
}

func (s *segment) close() error { return syscall.Munmap(s.mapped) }

func (s *segment) len() int { return len(s.records) / recordSize }

func (s *segment) at(i int) record {
	b := s.records[i*recordSize:]
	return record{indexKey(binary.BigEndian.Uint64(b)), int64(binary.BigEndian.Uint64(b[8:]))}
}

// heights yields the blocks below a height that have a key, the newest first.
func (s *segment) heights(key indexKey, below int64, yield func(int64) bool) bool {
	n := sort.Search(s.len(), func(i int) bool { return compareRecords(s.at(i), record{key, below}) >= 0 })
	for n--; n >= 0; n-- {
		r := s.at(n)
		if r.key != key {
			break
		}
		if !yield(r.height) {
			return false
		}
	}
	return true
}
