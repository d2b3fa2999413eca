package pieces

import (
	"fmt"
	"math/bits"
)

// MaxSet bounds an encoded set in bytes: one bit for each piece of the largest
// blob.
const MaxSet = maxBlobSize / Size / 8

// Set is a set of pieces of one blob, one bit for each: piece i is bit i%8 of
// byte i/8. So it also goes over the network.
type Set []byte

// NewSet makes an empty set of pieces of a blob with n pieces.
func NewSet(n int) Set { return make(Set, (n+7)/8) }

// ParseSet reads a set of pieces of a blob with n pieces.
func ParseSet(data []byte, n int) (Set, error) {
	if len(data) != (n+7)/8 {
		return nil, fmt.Errorf("a set of %d bytes for a blob of %d pieces: want %d bytes", len(data), n, (n+7)/8)
	}
	if n%8 != 0 && data[len(data)-1]>>(n%8) != 0 {
		return nil, fmt.Errorf("a set with pieces that a blob of %d does not have", n)
	}
	return data, nil
}

// Add adds piece i.
func (s Set) Add(i int) { s[i/8] |= 1 << (i % 8) }

// Has tells whether piece i is in the set.
func (s Set) Has(i int) bool { return s[i/8]>>(i%8)&1 == 1 }

// Len is the number of pieces in the set.
func (s Set) Len() (n int) {
	for _, b := range s {
		n += bits.OnesCount8(b)
	}
	return n
}
