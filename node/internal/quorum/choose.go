package quorum

// Answer is the record of a member as it has answered a Prepare, or a Look.
type Answer struct {
	Name  string
	State *State
}

// Founding is how a ledger begins: with its first configuration, and the tree that
// was signed before it had members. Only the first start of a ledger has one: a
// list of fresh members says nothing about what others have staged, so founding a
// ledger twice is the one mistake that the members cannot prevent.
type Founding struct {
	Config Config
	Tree   Tree
}

// Choose finds what a restore must continue from: the proposal with the highest
// ballot, and of that the largest. It contains all that was ever chosen, thus all
// that was ever signed. It is false until the members that have answered are R of
// the configuration that the answers themselves reveal. Ledgers are restored by
// this rule alone, also by hand.
func Choose(answers []Answer, founding *Founding) (Staged, bool) {
	return choose(answers, founding, Config.Restored)
}

// counts is Config.Staged or Config.Restored, or what a test breaks in their place.
type counts func(c Config, in func(name string) bool) bool

func choose(answers []Answer, founding *Founding, restored counts) (Staged, bool) {
	var best Staged
	if founding != nil {
		best = Staged{Config: founding.Config, Tree: founding.Tree}
	}
	for _, a := range answers {
		if newer(a.State.Staged, best) {
			best = a.State.Staged
		}
	}
	return best, restored(best.Config, func(name string) bool {
		for _, a := range answers {
			if a.Name == name {
				// The same name with another key is another disk, which knows nothing of
				// what the member has promised.
				return best.Config.lists(Member{name, a.State.Key})
			}
		}
		return false
	})
}

// newer orders proposals. Those of one ballot are one line, in which neither the
// configuration nor the tree goes back.
func newer(a, b Staged) bool {
	switch c := a.Ballot.Compare(b.Ballot); {
	case c != 0:
		return c > 0
	case a.Config.Version != b.Config.Version:
		return a.Config.Version > b.Config.Version
	}
	return a.Tree.Size > b.Tree.Size
}

// outside returns a signed tree of the answers that chosen does not continue.
func outside(answers []Answer, chosen Tree, c Consistency) (name string, signed Tree, err error) {
	for _, a := range answers {
		for _, signed := range a.State.signed() {
			if err := grew(c, signed, chosen); err != nil {
				return a.Name, signed, err
			}
		}
	}
	return "", Tree{}, nil
}
