package quorum

import (
	"slices"
	"strings"
	"testing"
)

func members(names ...string) (out []Member) {
	for _, n := range names {
		out = append(out, Member{n, "key of " + n})
	}
	return out
}

func TestListsThatCannotKeepTheirPromise(t *testing.T) {
	short := NewList(2, members("a", "b", "c")...)
	short.R.K = 1
	double := NewList(2, members("a", "b", "c")...)
	double.W.Members = []string{"a", "a", "b"}
	shared := NewList(1, Member{"a", "k"}, Member{"b", "k"})
	for name, c := range map[string]struct {
		list List
		want string
	}{
		"three, W 2":              {NewList(2, members("a", "b", "c")...), ""},
		"three, W 3":              {NewList(3, members("a", "b", "c")...), ""},
		"three, W 1":              {NewList(1, members("a", "b", "c")...), ""},
		"R misses W":              {short, "raise R"},
		"a member twice in W":     {double, "twice"},
		"two members, one key":    {shared, "share"},
		"none":                    {NewList(1), "0 members"},
		"W above the members":     {NewList(3, members("a", "b")...), "from 1 to 2"},
		"eight":                   {NewList(5, members("a", "b", "c", "d", "e", "f", "g", "h")...), "use 1 to 7"},
		"a member without a name": {NewList(1, Member{"", "k"}), "without a name"},
	} {
		t.Run(name, func(t *testing.T) {
			err := c.list.Validate()
			if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want %q", err, c.want)
			}
		})
	}
	joint := Config{Version: 2, List: NewList(1, Member{"a", "old"}), Next: &List{}}
	*joint.Next = NewList(1, Member{"a", "new"})
	if err := joint.Validate(); err == nil {
		t.Error("a name with two keys was accepted: votes are counted by name")
	}
}

// The dual of a nested rule is checked against its meaning: it meets each set that
// satisfies the rule, and nothing less does.
func TestDualMeetsEachSet(t *testing.T) {
	names := []string{"a", "b", "c", "d", "e"}
	for _, g := range []Group{
		{K: 2, Members: names[:3]},
		{K: 1, Members: names},
		{K: 5, Members: names},
		{K: 2, Members: names[4:], Groups: []Group{{K: 1, Members: names[:2]}, {K: 2, Members: names[2:4]}}},
		{K: 1, Groups: []Group{{K: 2, Members: names[:3]}, {K: 2, Members: names[3:]}}},
	} {
		dual := g.Dual()
		for set := range 1 << len(names) {
			in := func(n string) bool { return set>>slices.Index(names, n)&1 == 1 }
			out := func(n string) bool { return !in(n) }
			if dual.Satisfied(in) != !g.Satisfied(out) {
				t.Errorf("%+v and its dual disagree about set %b", g, set)
			}
		}
	}
}

func TestAJointConfigurationWantsBothLists(t *testing.T) {
	next := NewList(2, members("b", "c", "d")...)
	c := Config{Version: 2, List: NewList(2, members("a", "b", "c")...), Next: &next}
	for set, want := range map[string]bool{"ab": false, "bc": true, "bd": false, "abd": true, "acd": true, "cd": false} {
		in := func(n string) bool { return strings.Contains(set, n) }
		if c.Staged(in) != want || c.Restored(in) != want {
			t.Errorf("members %s: staged %v, restored %v", set, c.Staged(in), c.Restored(in))
		}
	}
	if got := c.Members(); len(got) != 4 {
		t.Errorf("members %v", got)
	}
	none := func(string) bool { return true }
	if (Config{}).Staged(none) || (Config{}).Restored(none) {
		t.Error("no configuration is enough for anything")
	}
}
