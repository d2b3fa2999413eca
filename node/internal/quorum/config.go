package quorum

import (
	"errors"
	"fmt"
	"slices"
)

// MaxMembers bounds a list: more members make each append slower and no safer.
const MaxMembers = 7

// Member is one storing member: a cosigner key on one disk. A new disk is a new
// member, with a new key.
type Member struct {
	Name string `json:"name"`
	Key  string `json:"key"` // as State.Key
}

// Group is a rule that a set of members satisfies or not: at least K of its
// members and groups.
type Group struct {
	K       int      `json:"k"`
	Members []string `json:"members,omitempty"` // by name
	Groups  []Group  `json:"groups,omitempty"`
}

// Satisfied tells whether the members that in reports satisfy the rule.
func (g Group) Satisfied(in func(name string) bool) bool {
	n := 0
	for _, m := range g.Members {
		if in(m) {
			n++
		}
	}
	for i := 0; i < len(g.Groups) && n < g.K; i++ {
		if g.Groups[i].Satisfied(in) {
			n++
		}
	}
	return n >= g.K
}

// Dual is the weakest rule whose every set meets every set that satisfies g: k of
// n becomes n-k+1 of n, at each level.
func (g Group) Dual() Group {
	d := Group{K: len(g.Members) + len(g.Groups) - g.K + 1, Members: g.Members}
	for _, sub := range g.Groups {
		d.Groups = append(d.Groups, sub.Dual())
	}
	return d
}

// validate reports the first fault of a rule. Members that are not named yet are
// in left, and leave it: one that stands in two groups would count twice.
func (g Group) validate(left map[string]bool) error {
	if n := len(g.Members) + len(g.Groups); g.K < 1 || g.K > n {
		return fmt.Errorf("a group wants %d of %d: use a number from 1 to %d", g.K, n, n)
	}
	for _, m := range g.Members {
		if !left[m] {
			return fmt.Errorf("a group names %q, which is not a member, or is named twice", m)
		}
		delete(left, m)
	}
	for _, sub := range g.Groups {
		if err := sub.validate(left); err != nil {
			return err
		}
	}
	return nil
}

func (g Group) equal(h Group) bool {
	return g.K == h.K && slices.Equal(g.Members, h.Members) && slices.EqualFunc(g.Groups, h.Groups, Group.equal)
}

// List is one list of members with its two rules: W, which members must have
// staged a tree before it is signed, and R, which must answer a restore.
type List struct {
	Members []Member `json:"members"`
	W       Group    `json:"w"`
	R       Group    `json:"r"`
}

// NewList makes the list in which w of the members must stage. R follows from it.
func NewList(w int, members ...Member) List {
	l := List{Members: members, W: Group{K: w}}
	for _, m := range members {
		l.W.Members = append(l.W.Members, m.Name)
	}
	l.R = l.W.Dual()
	return l
}

// Validate reports a list that cannot keep its promises, above all an R that can
// miss a W.
func (l List) Validate() error {
	if n := len(l.Members); n < 1 || n > MaxMembers {
		return fmt.Errorf("%d members: use 1 to %d", n, MaxMembers)
	}
	var names, keys []string
	for _, m := range l.Members {
		if m.Name == "" || m.Key == "" {
			return errors.New("a member without a name or a key: give it both")
		}
		names, keys = append(names, m.Name), append(keys, m.Key)
	}
	for _, s := range [][]string{names, keys} {
		slices.Sort(s)
		if len(slices.Compact(s)) != len(l.Members) {
			return errors.New("two members share a name or a key: each disk needs its own")
		}
	}
	for _, rule := range []Group{l.W, l.R} {
		left := map[string]bool{}
		for _, name := range names {
			left[name] = true
		}
		if err := rule.validate(left); err != nil {
			return err
		}
	}
	for set := range 1 << len(names) {
		in := func(name string) bool { return set>>slices.Index(names, name)&1 == 1 }
		out := func(name string) bool { return !in(name) }
		if l.R.Satisfied(in) && l.W.Satisfied(out) {
			return errors.New("members that miss a whole W can satisfy R: raise R, or leave it to follow from W")
		}
	}
	return nil
}

func (l List) equal(m List) bool {
	return slices.Equal(l.Members, m.Members) && l.W.equal(m.W) && l.R.equal(m.R)
}

// Config is the list in force, or two of them while one replaces the other: then
// W and R of both are needed (the joint quorum).
type Config struct {
	// Version counts the changes of a ledger's configuration. Zero is none.
	Version uint64 `json:"version"`
	List    List   `json:"list"`
	// Next is the list that is to replace List.
	Next *List `json:"next,omitempty"`
}

// Validate reports the first fault of the lists.
func (c Config) Validate() error {
	if c.Version == 0 {
		return errors.New("a configuration without a version: the first one has version 1")
	}
	if err := c.List.Validate(); err != nil {
		return fmt.Errorf("list of members: %w", err)
	}
	if c.Next != nil {
		if err := c.Next.Validate(); err != nil {
			return fmt.Errorf("next list of members: %w", err)
		}
		for _, m := range c.List.Members {
			for _, n := range c.Next.Members {
				if m.Name == n.Name && m.Key != n.Key {
					return fmt.Errorf("member %q has two keys, one in each list: give the new one another name", m.Name)
				}
			}
		}
	}
	return nil
}

// Equal tells whether both are the same configuration.
func (c Config) Equal(d Config) bool {
	if c.Version != d.Version || !c.List.equal(d.List) || (c.Next == nil) != (d.Next == nil) {
		return false
	}
	return c.Next == nil || c.Next.equal(*d.Next)
}

// Staged tells whether the members that in reports are enough to choose a tree.
func (c Config) Staged(in func(name string) bool) bool {
	return c.Version != 0 && c.List.W.Satisfied(in) && (c.Next == nil || c.Next.W.Satisfied(in))
}

// Restored tells whether the members that in reports are enough to restore from.
func (c Config) Restored(in func(name string) bool) bool {
	return c.Version != 0 && c.List.R.Satisfied(in) && (c.Next == nil || c.Next.R.Satisfied(in))
}

// lists tells whether m is in one of the lists.
func (c Config) lists(m Member) bool {
	return slices.Contains(c.List.Members, m) || c.Next != nil && slices.Contains(c.Next.Members, m)
}

// Members are those of both lists, each once.
func (c Config) Members() []Member {
	if c.Next == nil {
		return c.List.Members
	}
	all := slices.Clone(c.List.Members)
	for _, m := range c.Next.Members {
		if !slices.Contains(all, m) {
			all = append(all, m)
		}
	}
	return all
}
