package bounded

import (
	"encoding/json"
	"strings"
	"testing"
)

func TestValuesAreCounted(t *testing.T) {
	for _, c := range []struct {
		name, document string
		most           int
		refused        bool
	}{
		{"as many as are allowed", `[1,2,3]`, 4, false},
		{"one more", `[1,2,3,4]`, 4, true},
		{"members count", `{"a":1,"b":2,"c":3}`, 3, true},
		{"empty objects count", `[{},{},{}]`, 6, true},
		{"strings do not", `["a,[{,,,", "\",,,\\"]`, 3, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			var out any
			if err := Unmarshal([]byte(c.document), c.most, &out); (err != nil) != c.refused {
				t.Errorf("%v, refused should be %v", err, c.refused)
			}
		})
	}
}

func TestNothingIsMadeOfWhatIsRefused(t *testing.T) {
	document := []byte("[" + strings.Repeat("1,", 1<<20) + "1]")
	made := testing.AllocsPerRun(10, func() {
		var out []struct{ A, B string }
		if err := Unmarshal(document, 100, &out); err == nil || out != nil {
			t.Errorf("%v, %d made", err, len(out))
		}
	})
	if made > 10 {
		t.Errorf("%v allocations", made)
	}
}

// No document has more values than are counted.
func FuzzUnmarshal(f *testing.F) {
	f.Add([]byte(`{"a":["b",{"c":"\"[,"}]}`))
	f.Add([]byte(`[[[],{}],"\\",1]`))
	f.Fuzz(func(t *testing.T, data []byte) {
		var out any
		if json.Unmarshal(data, &out) != nil {
			return
		}
		if n := count(out); n > 1 && !hasMore(data, n-1) {
			t.Errorf("%q has %d values, and passes for fewer", data, n)
		}
	})
}

func count(v any) int {
	n := 1
	switch v := v.(type) {
	case []any:
		for _, e := range v {
			n += count(e)
		}
	case map[string]any:
		for _, e := range v {
			n += count(e)
		}
	}
	return n
}
