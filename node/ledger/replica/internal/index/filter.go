package index

// filter tells which keys a segment certainly does not have, without a look at
// its records: most segments do not have the key that is asked for. It is a
// Bloom filter in which all of a key's bits are in one word, so that a question
// costs one access to memory; about one in thirty keys that the segment does
// not have passes.
type filter []uint64

const filterKeys = 8 // for each word

func newFilter(keys int) filter { return make(filter, keys/filterKeys+1) }

// place is the word and the bits of a key, which is a part of a hash.
func (f filter) place(k Key) (word int, bits uint64) {
	word = int(uint64(k) >> 16 * uint64(len(f)) >> 32)
	return word, 1<<(k&63) | 1<<(k>>6&63) | 1<<(k>>12&63) | 1<<(k>>18&63)
}

func (f filter) add(k Key) {
	word, bits := f.place(k)
	f[word] |= bits
}

func (f filter) has(k Key) bool {
	word, bits := f.place(k)
	return f[word]&bits == bits
}
