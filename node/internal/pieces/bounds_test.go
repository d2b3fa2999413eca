package pieces

import (
	"strings"
	"testing"
)

func TestManyEmptyBlobsAreRefusedBeforeTheyAreMade(t *testing.T) {
	data := []byte(Prefix + strings.Repeat("{},", 1<<20) + "{}]}")
	made := testing.AllocsPerRun(5, func() {
		if _, err := Parse(data); err == nil {
			t.Error("it was taken")
		}
	})
	if made > 20 {
		t.Errorf("%v allocations", made)
	}
}
