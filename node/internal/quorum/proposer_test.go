package quorum

import (
	"errors"
	"strings"
	"testing"
)

// calm is a world without faults but those that the test makes.
func calm(members int) *world {
	w := &world{now: 1, plan: plan{members: members, w: members/2 + 1}}
	w.begin()
	w.settle(100)
	return w
}

// publish has a publisher publish some images, for as long as it makes progress.
func (w *world) publish(s *start, images ...int32) {
	for range 3 {
		for _, image := range images {
			s.submit(w, image)
		}
		w.settle(200)
		w.now += 10
		s.tick(w)
		w.settle(200)
	}
}

func (w *world) expect(t *testing.T, s *start, phase Phase, acked int32) {
	t.Helper()
	if w.broken != "" {
		t.Fatal(w.broken)
	}
	if s.p.phase != phase || w.history[w.facts.acked].size != acked {
		t.Fatalf("p%d is %s (%s) with %d blocks acknowledged, want %s with %d; %+v", s.id, s.p.phase, s.p.reason, w.history[w.facts.acked].size, phase, acked, s.status())
	}
}

// To prepare is to depose. A publisher that comes back with its old disk looks
// first, and so leaves the one in office alone.
func TestAReplacedPublisherDisturbsNobody(t *testing.T) {
	w := calm(3)
	old := w.starts[0]
	w.publish(old, 1, 2)
	w.expect(t, old, Serving, 2)
	old.crash(w)
	next := w.newStart(true)
	w.publish(next, 3)
	w.expect(t, next, Serving, 3)
	office := next.p.own.Ballot

	old.boot(w)
	w.settle(100)
	w.expect(t, old, Superseded, 3)
	w.publish(next, 4)
	w.expect(t, next, Serving, 4)
	for _, d := range w.disks {
		if d.state.Promised != office {
			t.Errorf("%s has promised %v to the one that came back", d.member.Name, d.state.Promised)
		}
	}
}

// Of two publishers the one with the lower ballot stops, and does not outbid.
func TestOutbidInOfficeStepsDown(t *testing.T) {
	w := calm(3)
	old := w.starts[0]
	w.publish(old, 1)
	ballot := old.p.own.Ballot
	next := w.newStart(true)
	w.settle(200)
	w.publish(old, 2)
	w.expect(t, old, Superseded, 1)
	if old.p.own.Ballot != ballot {
		t.Errorf("it went from %v to %v", ballot, old.p.own.Ballot)
	}
	if _, err := old.p.Submit("3"); !refused(err, NotServing) {
		t.Errorf("it takes images: %v", err)
	}
	w.publish(next, 2)
	w.expect(t, next, Serving, 2)
}

// A member that knows a larger signed tree will never cosign this publisher's again, even
// if it has not heard of the ballot by which another one signed that.
func TestAnOvertakenPublisherStepsDown(t *testing.T) {
	w := calm(3)
	s := w.starts[0]
	w.publish(s, 1)
	stale := func(size int64) *Refusal {
		r := refuse(Stale, "tree %d is known already", size)
		r.Size = size
		return r
	}
	commit, from := Commit{Signed: s.p.own.Signed}, w.disks[0].member
	s.do(w, s.p.Refused(from, commit, stale(1))) // the late answer to an earlier request
	w.expect(t, s, Serving, 1)
	s.do(w, s.p.Refused(from, Stage{}, stale(2)))
	w.expect(t, s, Serving, 1)
	s.do(w, s.p.Refused(from, commit, stale(2)))
	w.expect(t, s, Superseded, 1)
}

func refused(err error, reason Reason) bool {
	r, ok := errors.AsType[*Refusal](err)
	return ok && r.Reason == reason
}

// While W is out of reach everything waits: nothing is signed, no image is let go,
// and new ones are turned away once enough wait.
func TestQuorumOutOfReachHoldsImages(t *testing.T) {
	w := calm(3)
	s := w.starts[0]
	w.publish(s, 1)
	w.cut[0] = 1<<1 | 1<<2
	for image := int32(2); image < 40; image++ {
		s.submit(w, image)
	}
	signatures := len(w.facts.signatures)
	w.publish(s, 2)
	w.now += 1000
	s.tick(w)
	w.expect(t, s, Serving, 1)
	if _, err := s.p.Submit("2"); !refused(err, Held) {
		t.Errorf("an image whose fate is open is taken again: %v", err)
	}
	if _, err := s.p.Submit("99"); !refused(err, Full) {
		t.Errorf("there is no end to the queue: %v", err)
	}
	status := s.p.Status()
	if status.WaitsFor != string(staging) || len(status.Missing) != 2 || status.Waiting != 21 {
		t.Errorf("status %+v", status)
	}
	if len(w.facts.signatures) != signatures {
		t.Error("something was signed")
	}
	w.cut[0] = 0
	w.publish(s)
	w.expect(t, s, Serving, 22)
}

func TestAStartWithoutAQuorumOnlyReads(t *testing.T) {
	w := calm(3)
	s := w.starts[0]
	w.publish(s, 1)
	s.crash(w)
	w.cut[0] = 1<<1 | 1<<2
	before := s.own
	s.boot(w)
	w.now += 100
	w.settle(50)
	s.tick(w)
	w.settle(50)
	w.expect(t, s, Looking, 1)
	if s.own.Ballot != before.Ballot || w.disks[0].state.Promised != before.Ballot {
		t.Error("it has drawn a ballot")
	}
	if status := s.p.Status(); status.WaitsFor == "" || len(status.Missing) != 2 {
		t.Errorf("status %+v", status)
	}
	w.cut[0] = 0
	w.publish(s, 2)
	w.expect(t, s, Serving, 2)
}

// A member's name with another key is another disk: it has not made the promises
// that the vote would count for.
func TestAnotherKeyHasNoVote(t *testing.T) {
	w := calm(3)
	s := w.starts[0]
	w.publish(s, 1)
	w.disks[0].lose(w)
	w.cut[0] = 1 << 1
	w.publish(s, 2)
	w.now += 100
	s.tick(w)
	w.expect(t, s, Serving, 1)
	if missing := s.p.Status().Missing; !strings.Contains(missing["m1"], "another disk") {
		t.Errorf("missing %v", missing)
	}
	s.crash(w)
	s.boot(w)
	w.settle(100)
	w.expect(t, s, Looking, 1)
}

func TestOwnSignatureOutsideTheChosenTreeIsAnAlarm(t *testing.T) {
	w := calm(3)
	s := w.starts[0]
	w.publish(s, 1)
	s.crash(w)
	signatures := len(w.facts.signatures)
	s.own.Signed.Tree = w.history.tree(w.history.grow(0, 7))
	w.plan.theft = true // an alarm is no broken claim here
	s.boot(w)
	w.settle(100)
	w.expect(t, s, Alarm, 1)
	if len(w.facts.signatures) != signatures {
		t.Error("it has signed")
	}
}

func TestTwoSignedHistoriesStopARestore(t *testing.T) {
	w := calm(3)
	s := w.starts[0]
	w.publish(s, 1, 2)
	s.crash(w)
	signatures := len(w.facts.signatures)
	b := w.history.grow(w.facts.acked, 7)
	forged := Signed{w.history.tree(b), []byte{1}}
	if _, r := w.disks[0].submit(w, forged, 2, nil); r.Reason != Behind {
		t.Fatal(r)
	}
	w.plan.theft = true
	s.boot(w)
	w.settle(100)
	for range 3 {
		s.tick(w)
		w.settle(100)
	}
	w.expect(t, s, KeyMisused, 2)
	if len(w.facts.signatures) != signatures {
		t.Error("it has signed")
	}
}

// What only one member has staged, and then takes with it, does not stop a restore
// from R others.
func TestEntriesThatAreGoneAreNotWaitedFor(t *testing.T) {
	w := calm(3)
	s := w.starts[0]
	w.publish(s, 1)
	w.cut[0] = 1<<1 | 1<<2
	s.submit(w, 2)
	w.settle(20)
	s.crash(w)
	s.gone = true
	if w.disks[0].state.Staged.Tree.Size != 2 {
		t.Fatal("m1 has not staged the second block")
	}
	w.messages = nil
	next := w.newStart(true)
	for range 200 {
		if next.p.phase == Fetching {
			break
		}
		w.settle(1)
	}
	if next.p.restored.Tree.Size != 2 {
		t.Fatalf("it has chosen %v", next.p.restored.Tree)
	}
	w.disks[0].lose(w)
	for range 20 {
		w.publish(next, 2, 3)
	}
	w.expect(t, next, Serving, 3)
}

func TestMembersChangeOneAtATime(t *testing.T) {
	w := calm(3)
	s := w.starts[0]
	w.publish(s, 1, 2)
	wish := func(d *disk) error {
		effects, err := s.p.Change(NewList(2, w.disks[1].member, w.disks[2].member, d.member))
		if err == nil {
			s.do(w, effects)
		}
		return err
	}
	// One that cannot be reached is waited for, and publishing goes on meanwhile.
	dead, d := w.newDisk(Mirror), w.newDisk(Mirror)
	w.cut[0] = 1 << dead.id
	if err := wish(dead); err != nil {
		t.Fatal(err)
	}
	w.publish(s, 3)
	w.expect(t, s, Serving, 3)
	if s.p.config.Version != 1 {
		t.Fatalf("configuration %d with a member that has nothing", s.p.config.Version)
	}
	if err := wish(d); err != nil {
		t.Fatalf("the wish cannot be changed: %v", err)
	}
	for range 500 {
		if s.p.config.Next == nil {
			w.settle(1)
		}
	}
	if err := wish(dead); !refused(err, Held) {
		t.Errorf("a second change began: %v", err)
	}
	w.publish(s, 4)
	w.expect(t, s, Serving, 4)
	if s.p.config.Version != 3 || s.p.config.Next != nil {
		t.Fatalf("configuration %+v", s.p.config)
	}
	if d.state.Log.Tree != s.p.head.Tree || d.state.Proven.Tree != s.p.proven.Tree {
		t.Errorf("the new member has %v, proven %v", d.state.Log.Tree, d.state.Proven.Tree)
	}
	list := s.p.config.List
	list.R.K = 1
	if _, err := s.p.Change(list); !refused(err, Malformed) {
		t.Errorf("a list whose R misses a W: %v", err)
	}
	// The member that left can be destroyed, and any two of the others restore.
	w.disks[0].lose(w)
	s.crash(w)
	w.cut[1] = 1 << 1
	next := w.newStart(true)
	w.publish(next, 5)
	w.expect(t, next, Serving, 5)
}

// The time of a refresh is that of the question. A publisher that stands still
// between the answers and the signature states a time at which it was in office.
func TestRefreshStatesTheTimeOfItsQuestion(t *testing.T) {
	w := calm(3)
	s := w.starts[0]
	w.publish(s, 1)
	asked := w.now
	s.do(w, s.p.Refresh(w.now))
	for range 100 {
		if s.p.step != signing {
			w.settle(1)
		}
	}
	w.now += 500
	w.settle(20)
	last := w.facts.signatures[len(w.facts.signatures)-1]
	if last.at != asked {
		t.Errorf("it was asked at %d and signed for %d", asked, last.at)
	}
	w.expect(t, s, Serving, 1)
}

// A member may know of the newer publisher no more than its checkpoint. The older one
// meets it there, and must not take it for a second history of the key: consensus
// has no misuse here, only a promise that came late.
func TestACheckpointFromAheadIsNoMisuse(t *testing.T) {
	for _, during := range []Phase{Preparing, Serving} {
		t.Run(string(during), func(t *testing.T) {
			w := calm(3)
			first := w.starts[0]
			w.publish(first, 1)
			if during == Preparing {
				first.crash(w)
				first = w.newStart(true)
				for range 100 {
					if first.p.phase != Preparing {
						w.settle(1)
					}
				}
				w.settle(1) // the request that m1 promises by
			}
			mine := w.messages
			w.messages = nil
			// Another start gets past it by m1 and m2, and m3 hears only of a checkpoint.
			next := w.newStart(true)
			w.cut[next.id] = 1 << 2
			w.publish(next, 2)
			w.expect(t, next, Serving, 2)
			if _, r := w.disks[2].submit(w, next.p.head, w.disks[2].state.Pending.Tree.Size, nil); r.Reason != Behind {
				t.Fatal(r)
			}
			w.messages = mine
			if during == Serving {
				w.cut[first.id] = 1<<0 | 1<<1
				first.submit(w, 3)
				w.settle(100)
				w.expect(t, first, Superseded, 2)
				return
			}
			w.cut[first.id] = 1 << 1
			w.settle(100)
			w.publish(first, 3) // it was wanted as well: having looked again it takes over
			w.expect(t, first, Serving, 3)
		})
	}
}
