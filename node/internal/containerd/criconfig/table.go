package criconfig

import (
	"maps"
	"slices"
)

// table is a table of a configuration that knows which file said what.
type table struct {
	file string         // the first that has it
	of   map[string]any // *table or setting
}

// setting is a value in a table.
type setting struct {
	value any
	file  string
}

// label makes a table of what a file says. It is the caller's own.
func label(content map[string]any, file string) *table {
	t := &table{file, map[string]any{}}
	for key, value := range content {
		if below, ok := value.(map[string]any); ok {
			t.of[key] = label(below, file)
		} else {
			t.of[key] = setting{value, file}
		}
	}
	return t
}

// merge puts the tables of a later file over t, as containerd 2.x does it (by
// mergo, with override): tables key by key, all other values entirely.
func (t *table) merge(later *table) {
	for key, value := range later.of {
		above, ok1 := t.of[key].(*table)
		below, ok2 := value.(*table)
		if ok1 && ok2 {
			above.merge(below)
		} else {
			t.of[key] = value
		}
	}
}

// sub is a table in t; nil if there is none.
func (t *table) sub(path ...string) *table {
	for _, key := range path {
		if t == nil {
			return nil
		}
		t, _ = t.of[key].(*table)
	}
	return t
}

// size is the number of keys.
func (t *table) size() int {
	if t == nil {
		return 0
	}
	return len(t.of)
}

// files are those that have said something of t, by their names.
func (t *table) files() []string {
	found := map[string]bool{t.file: true}
	for _, value := range t.of {
		switch v := value.(type) {
		case *table:
			for _, file := range v.files() {
				found[file] = true
			}
		case setting:
			found[v.file] = true
		}
	}
	return slices.Sorted(maps.Keys(found))
}

// value finds a value of one type, and the file that has set it.
func value[T any](t *table, key string) (v T, file string, ok bool) {
	if t == nil {
		return v, "", false
	}
	s, ok := t.of[key].(setting)
	if !ok {
		return v, "", false
	}
	v, ok = s.value.(T)
	return v, s.file, ok
}
