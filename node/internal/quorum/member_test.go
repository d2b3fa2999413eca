package quorum

import (
	"errors"
	"fmt"
	"testing"

	"golang.org/x/mod/sumdb/tlog"
)

// merkle is a history with the hashes of RFC 6962, for the evidence of C2SP.
type merkle []tlog.Hash

func (m *merkle) ReadHashes(indexes []int64) ([]tlog.Hash, error) {
	var out []tlog.Hash
	for _, i := range indexes {
		out = append(out, (*m)[i])
	}
	return out, nil
}

// grown is a history of blocks named by the letters of s.
func grown(t *testing.T, s string) *merkle {
	t.Helper()
	m := new(merkle)
	for i, entry := range s {
		hashes, err := tlog.StoredHashes(int64(i), []byte(string(entry)), m)
		if err != nil {
			t.Fatal(err)
		}
		*m = append(*m, hashes...)
	}
	return m
}

func treeOf(t *testing.T, s string) Tree {
	t.Helper()
	root, err := tlog.TreeHash(int64(len(s)), grown(t, s))
	if err != nil {
		t.Fatal(err)
	}
	return Tree{int64(len(s)), root}
}

func signedOf(t *testing.T, s string) Signed {
	t.Helper()
	return Signed{treeOf(t, s), []byte("note of " + s)}
}

func rootsOf(t *testing.T, s string) Roots {
	t.Helper()
	r := Roots{}
	for i := range s {
		r[int64(i+1)] = treeOf(t, s[:i+1]).Root
	}
	return r
}

func proofOf(t *testing.T, from int, s string) Proof {
	t.Helper()
	p, err := tlog.ProveTree(int64(len(s)), int64(from), grown(t, s))
	if err != nil {
		t.Fatal(err)
	}
	return Proof(p)
}

func ballot(n uint64) Ballot { return Ballot{n, fmt.Sprint("start", n)} }

var three = Config{Version: 1, List: NewList(2, Member{"m1", "k1"}, Member{"m2", "k2"}, Member{"m3", "k3"})}

func fresh() State { return New("example.com/log", "k1", Mirror) }

func stageOf(t *testing.T, b uint64, s string, from int) Stage {
	t.Helper()
	return Stage{Ballot: ballot(b), Config: three, Tree: treeOf(t, s), From: int64(from), Evidence: rootsOf(t, s)}
}

// do is a transition that must be allowed.
func do[Q, A any](t *testing.T, s *State, transition func(State, Q) (State, A, error), req Q) A {
	t.Helper()
	next, answer, err := transition(*s, req)
	if err != nil {
		t.Fatalf("%T: %v", req, err)
	}
	*s = next
	return answer
}

// refuses is a transition that must be refused, and change nothing.
func refuses[Q, A any](t *testing.T, s State, transition func(State, Q) (State, A, error), req Q, reason Reason) *Refusal {
	t.Helper()
	next, _, err := transition(s, req)
	r, ok := errors.AsType[*Refusal](err)
	if !ok || r.Reason != reason {
		t.Fatalf("%T: %v, want the reason %s", req, err, reason)
	}
	if next.Serial != s.Serial {
		t.Fatalf("%T was refused and has changed the record", req)
	}
	return r
}

func TestAPromiseIsKept(t *testing.T) {
	s := fresh()
	do(t, &s, State.Stage, stageOf(t, 1, "ab", 0))
	do(t, &s, State.Prepare, Prepare{ballot(3)})
	for _, b := range []uint64{1, 2} {
		if r := refuses(t, s, State.Stage, stageOf(t, b, "abc", 0), Outbid); r.Promised != ballot(3) {
			t.Errorf("the refusal names %v", r.Promised)
		}
		refuses(t, s, State.Prepare, Prepare{ballot(b)}, Outbid)
		refuses(t, s, State.Confirm, Confirm{Ballot: ballot(b), Tree: treeOf(t, "ab")}, Outbid)
		refuses(t, s, State.Keep, Keep{Ballot: ballot(b), Proven: signedOf(t, "ab")}, Outbid)
	}
	do(t, &s, State.Stage, stageOf(t, 3, "ax", 0))
	if s.Staged.Tree != treeOf(t, "ax") {
		t.Error("a higher ballot could not replace what was never signed")
	}
	serial := s.Serial
	do(t, &s, State.Prepare, Prepare{ballot(3)})
	if s.Serial != serial {
		t.Error("a promise was written twice")
	}
}

func TestALookPromisesNothing(t *testing.T) {
	s := fresh()
	do(t, &s, State.Stage, stageOf(t, 1, "ab", 0))
	before := s.Serial
	if p := do(t, &s, State.Look, Look{}); p.State.Staged.Tree != treeOf(t, "ab") || s.Serial != before {
		t.Errorf("a look found %v and left serial %d after %d", p.State.Staged, s.Serial, before)
	}
}

func TestStageWantsEntriesInOneLine(t *testing.T) {
	s := fresh()
	if r := refuses(t, s, State.Stage, stageOf(t, 1, "abc", 2), Behind); r.Size != 0 {
		t.Errorf("it wants entries from %d", r.Size)
	}
	do(t, &s, State.Stage, stageOf(t, 1, "ab", 0))
	do(t, &s, State.Stage, stageOf(t, 1, "abc", 2))
	refuses(t, s, State.Stage, stageOf(t, 1, "abxy", 0), Contradicts)
	refuses(t, s, State.Stage, stageOf(t, 1, "abx", 0), Contradicts)
	serial := s.Serial
	if r := do(t, &s, State.Stage, stageOf(t, 1, "ab", 0)); r.Staged.Tree != treeOf(t, "abc") || s.Serial != serial {
		t.Error("a message that was late went back")
	}
	// Another ballot may leave the line, and brings what differs.
	gap := stageOf(t, 2, "abxy", 3)
	gap.Evidence = Roots{}
	if r := refuses(t, s, State.Stage, gap, Behind); r.Size != 0 {
		t.Errorf("it wants entries from %d", r.Size)
	}
	do(t, &s, State.Stage, stageOf(t, 2, "abxy", 0))
	other := stageOf(t, 2, "abxyz", 4)
	other.Config.List = NewList(3, three.List.Members...)
	refuses(t, s, State.Stage, other, Contradicts)
	broken := stageOf(t, 3, "abxyz", 4)
	broken.Config = Config{Version: 2, List: NewList(4, three.List.Members...)}
	refuses(t, s, State.Stage, broken, Malformed)
	refuses(t, s, State.Stage, Stage{Ballot: Ballot{Number: 9}, Config: three}, Malformed)
}

func TestCommitMovesWhatIsStaged(t *testing.T) {
	s := fresh()
	if r := refuses(t, s, State.Commit, Commit{signedOf(t, "ab"), nil}, Behind); r.Size != 0 {
		t.Errorf("it wants entries from %d", r.Size)
	}
	do(t, &s, State.Stage, stageOf(t, 1, "abc", 0))
	do(t, &s, State.Commit, Commit{signedOf(t, "ab"), rootsOf(t, "abc")})
	if s.Log.Tree != treeOf(t, "ab") || s.Pending.Tree != treeOf(t, "ab") || s.Staged.Tree != treeOf(t, "abc") {
		t.Errorf("after the commit: %+v", s)
	}
	refuses(t, s, State.Commit, Commit{signedOf(t, "a"), rootsOf(t, "abc")}, Stale)
	refuses(t, s, State.Commit, Commit{signedOf(t, "ax"), rootsOf(t, "abc")}, Contradicts)
	refuses(t, s, State.Commit, Commit{signedOf(t, "abx"), rootsOf(t, "abc")}, Behind)
	again := signedOf(t, "ab")
	again.Note = []byte("a newer time")
	do(t, &s, State.Commit, Commit{again, rootsOf(t, "abc")})
	if string(s.Log.Note) != "a newer time" {
		t.Error("the newer note was not kept")
	}
}

// Each way in is tried after each other one with a second history.
func TestNoWayInLeadsToTwoHistories(t *testing.T) {
	ours, theirs := "abcd", "abxy"
	ways := map[string]func(*testing.T, *State, string){
		"staged and committed": func(t *testing.T, s *State, h string) {
			do(t, s, State.Stage, stageOf(t, 1, h, 0))
			do(t, s, State.Commit, Commit{signedOf(t, h), rootsOf(t, h)})
		},
		"pending": func(t *testing.T, s *State, h string) {
			do(t, s, State.AddCheckpoint, AddCheckpoint{0, signedOf(t, h), Proof(nil)})
		},
		"advanced": func(t *testing.T, s *State, h string) {
			do(t, s, State.AddCheckpoint, AddCheckpoint{0, signedOf(t, h[:3]), Proof(nil)})
			do(t, s, State.Advance, Advance{signedOf(t, h[:3]), rootsOf(t, h[:3])})
		},
	}
	for name, way := range ways {
		t.Run(name, func(t *testing.T) {
			s := fresh()
			way(t, &s, ours)
			size := int(s.Pending.Tree.Size)
			refuses(t, s, State.Stage, stageOf(t, 2, theirs, 0), Contradicts)
			refuses(t, s, State.AddCheckpoint, AddCheckpoint{int64(size), signedOf(t, theirs), proofOf(t, size, theirs)}, Contradicts)
			refuses(t, s, State.AddCheckpoint, AddCheckpoint{int64(size), signedOf(t, theirs[:size]), Proof(nil)}, Contradicts)
			refuses(t, s, State.Advance, Advance{signedOf(t, theirs[:size]), rootsOf(t, theirs)}, Contradicts)
			s.Staged = Staged{Ballot: ballot(3), Config: three, Tree: treeOf(t, theirs+"z")} // by whatever mistake
			refuses(t, s, State.Commit, Commit{signedOf(t, theirs), rootsOf(t, theirs+"z")}, Contradicts)
		})
	}
}

func TestAddCheckpointRefusesInTheOrderOfTheSpecification(t *testing.T) {
	s := fresh()
	refuses(t, s, State.AddCheckpoint, AddCheckpoint{3, signedOf(t, "ab"), Proof(nil)}, Malformed)
	if r := refuses(t, s, State.AddCheckpoint, AddCheckpoint{1, signedOf(t, "ab"), Proof(nil)}, Stale); r.Size != 0 {
		t.Errorf("it names size %d", r.Size)
	}
	refuses(t, s, State.AddCheckpoint, AddCheckpoint{0, Signed{Tree{0, tlog.Hash{1}}, []byte("note")}, Proof(nil)}, Contradicts)
	refuses(t, s, State.AddCheckpoint, AddCheckpoint{0, signedOf(t, "ab"), Proof{tlog.Hash{}}}, Contradicts)
	do(t, &s, State.AddCheckpoint, AddCheckpoint{0, Signed{Tree{0, emptyRoot}, []byte("note")}, Proof(nil)})
	do(t, &s, State.AddCheckpoint, AddCheckpoint{0, signedOf(t, "abc"), Proof(nil)})
	refuses(t, s, State.AddCheckpoint, AddCheckpoint{3, signedOf(t, "abcde"), Proof(nil)}, Contradicts)
	do(t, &s, State.AddCheckpoint, AddCheckpoint{3, signedOf(t, "abcde"), proofOf(t, 3, "abcde")})
	if s.Log.Tree.Size != 0 || s.Cosigned().Tree.Size != 0 {
		t.Error("a mirror's key may sign what it has no entries of")
	}
	w := New("example.com/log", "k9", Witness)
	do(t, &w, State.AddCheckpoint, AddCheckpoint{0, signedOf(t, "abc"), Proof(nil)})
	if w.Cosigned().Tree != treeOf(t, "abc") {
		t.Error("a witness's key may not sign what it has seen")
	}
	refuses(t, w, State.Prepare, Prepare{ballot(1)}, Malformed)
	refuses(t, w, State.Commit, Commit{signedOf(t, "abc"), nil}, Malformed)
	refuses(t, w, State.Advance, Advance{signedOf(t, "abc"), nil}, Malformed)
}

func TestAdvanceStaysBetweenLogAndPending(t *testing.T) {
	s := fresh()
	refuses(t, s, State.Advance, Advance{signedOf(t, "ab"), rootsOf(t, "ab")}, Stale)
	do(t, &s, State.AddCheckpoint, AddCheckpoint{0, signedOf(t, "ab"), Proof(nil)})
	do(t, &s, State.AddCheckpoint, AddCheckpoint{2, signedOf(t, "abcd"), proofOf(t, 2, "abcd")})
	do(t, &s, State.Advance, Advance{signedOf(t, "ab"), rootsOf(t, "abcd")}) // an earlier pending one
	do(t, &s, State.Advance, Advance{signedOf(t, "abcd"), rootsOf(t, "abcd")})
	if r := refuses(t, s, State.Advance, Advance{signedOf(t, "ab"), rootsOf(t, "abcd")}, Stale); r.Size != 4 {
		t.Errorf("it names size %d", r.Size)
	}
	// What came by C2SP's way is not staged: a commit has nothing to move.
	do(t, &s, State.Commit, Commit{signedOf(t, "abcd"), nil})
	refuses(t, s, State.Commit, Commit{signedOf(t, "abcde"), nil}, Behind)
}

func TestConfirmAndKeepWantTheOwnBallot(t *testing.T) {
	s := fresh()
	refuses(t, s, State.Confirm, Confirm{Ballot: ballot(1), Tree: treeOf(t, "ab")}, NotStaged)
	do(t, &s, State.Stage, stageOf(t, 1, "ab", 0))
	do(t, &s, State.Confirm, Confirm{Ballot: ballot(1), Tree: treeOf(t, "ab")})
	refuses(t, s, State.Confirm, Confirm{Ballot: ballot(2), Tree: treeOf(t, "ab")}, NotStaged)
	refuses(t, s, State.Keep, Keep{ballot(1), signedOf(t, "abc"), rootsOf(t, "abc")}, NotStaged)
	do(t, &s, State.Keep, Keep{ballot(1), signedOf(t, "ab"), rootsOf(t, "ab")})
	refuses(t, s, State.Keep, Keep{ballot(1), signedOf(t, "ax"), rootsOf(t, "ab")}, Contradicts)
	do(t, &s, State.Keep, Keep{ballot(1), signedOf(t, "a"), rootsOf(t, "ab")})
	if s.Proven.Tree != treeOf(t, "ab") {
		t.Error("an older proof replaced a newer one")
	}
	// Somebody else has signed more: this ballot is not the newest any more.
	do(t, &s, State.AddCheckpoint, AddCheckpoint{0, signedOf(t, "abc"), Proof(nil)})
	refuses(t, s, State.Confirm, Confirm{Ballot: ballot(1), Tree: treeOf(t, "ab")}, Stale)
	refuses(t, s, State.Stage, stageOf(t, 2, "ab", 0), Stale)
}

func TestSignSubtreeKnowsItsOwnSignatures(t *testing.T) {
	s := fresh()
	do(t, &s, State.Stage, stageOf(t, 1, "abcd", 0))
	do(t, &s, State.Commit, Commit{signedOf(t, "abcd"), rootsOf(t, "abcd")})
	do(t, &s, State.SignSubtree, SignSubtree{2, 4, treeOf(t, "abcd")})
	do(t, &s, State.SignSubtree, SignSubtree{0, 2, treeOf(t, "abc")})
	refuses(t, s, State.SignSubtree, SignSubtree{2, 2, treeOf(t, "abcd")}, Malformed)
	refuses(t, s, State.SignSubtree, SignSubtree{2, 5, treeOf(t, "abcd")}, Malformed)
	refuses(t, s, State.SignSubtree, SignSubtree{0, 2, treeOf(t, "abcde")}, StateLost)
	refuses(t, s, State.SignSubtree, SignSubtree{0, 2, treeOf(t, "abxy")}, StateLost)
}
