package tlogmirror

import "sync"

const (
	// maxUploads bounds the uploads at one time, each of which holds up to 20 MiB of
	// entries, and maxUploadsOf those of one client: one that pauses does not keep
	// others out.
	maxUploads   = 8
	maxUploadsOf = 2
)

// slots are what clients may take, all together and each.
type slots struct {
	all, each int

	mu    sync.Mutex // guards what follows
	taken int
	of    map[string]int
}

func newSlots(all, each int) *slots { return &slots{all: all, each: each, of: map[string]int{}} }

// take takes a slot of a client's, if one is free.
func (s *slots) take(client string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.taken >= s.all || s.of[client] >= s.each {
		return false
	}
	s.taken++
	s.of[client]++
	return true
}

// give gives a slot back.
func (s *slots) give(client string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.taken--
	if s.of[client]--; s.of[client] == 0 {
		delete(s.of, client)
	}
}
