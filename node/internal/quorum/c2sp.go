package quorum

// The transitions of C2SP's tlog-witness and tlog-mirror, for whoever may ask. The
// caller has verified the log's signature on each note (403), and knows the origin
// (404).

// AddCheckpoint is add-checkpoint of tlog-witness.
type AddCheckpoint struct {
	Old    int64 // the size that the sender believes is on record
	Signed Signed
	// Proof is a Proof, as the request has it. It is verified here.
	Proof Consistency
}

// AddCheckpoint makes a signed tree the pending one. A witness cosigns it then; a
// mirror does not, before Advance or Commit. The order of the refusals is that of
// the specification.
func (s State) AddCheckpoint(req AddCheckpoint) (State, Reply, error) {
	t, old := req.Signed.Tree, s.Pending.Tree
	if req.Old < 0 || req.Old > t.Size {
		return s, Reply{}, refuse(Malformed, "old size %d of a checkpoint of size %d: send a size from 0 to %d", req.Old, t.Size, t.Size)
	}
	if req.Old != old.Size {
		r := refuse(Stale, "old size %d: the latest checkpoint has size %d; send a proof from there", req.Old, old.Size)
		r.Size = old.Size
		return s, Reply{}, r
	}
	if t.Size == 0 && t.Root != emptyRoot {
		return s, Reply{}, refuse(Contradicts, "a checkpoint of size 0 with root %v: that of the empty tree is %v", t.Root, emptyRoot)
	}
	if proof, ok := req.Proof.(Proof); ok && len(proof) > 0 && (req.Old == 0 || req.Old == t.Size) {
		return s, Reply{}, refuse(Contradicts, "a proof of %d hashes from size %d to %d: send none", len(proof), req.Old, t.Size)
	}
	if err := grew(req.Proof, old, t); err != nil {
		return s, Reply{}, refuse(Contradicts, "%v does not continue %v: %v", t, old, err)
	}
	s.Pending = req.Signed
	s = s.changed()
	return s, s.Reply(), nil
}

// Advance says that all entries of a signed tree are durable and served: the end of
// add-entries in tlog-mirror, or of fetching them.
type Advance struct {
	// Signed is the pending checkpoint, or one that was pending here earlier.
	Signed Signed
	// Evidence shows that the log grew into Signed, and Signed into the pending
	// tree. For a tree that was pending earlier, that it was accepted then is
	// evidence enough: use Roots.
	Evidence Consistency
}

// Advance makes a tree the log's newest whose entries are complete. Afterwards the
// key may cosign State.Log.
func (s State) Advance(req Advance) (State, Reply, error) {
	t := req.Signed.Tree
	if err := s.stores(); err != nil {
		return s, Reply{}, err
	}
	if t.Size > s.Pending.Tree.Size {
		r := refuse(Stale, "advancing to %v: it was never pending here, %v is; send the checkpoint first", t, s.Pending.Tree)
		r.Size = s.Pending.Tree.Size
		return s, Reply{}, r
	}
	if t.Size < s.Log.Tree.Size {
		r := refuse(Stale, "advancing to %v: the log is at %v already; go on from there", t, s.Log.Tree)
		r.Size = s.Pending.Tree.Size
		return s, Reply{}, r
	}
	if err := grew(req.Evidence, s.Log.Tree, t); err != nil {
		return s, Reply{}, refuse(Contradicts, "advancing to %v: it does not continue the log at %v: %v", t, s.Log.Tree, err)
	}
	if err := grew(req.Evidence, t, s.Pending.Tree); err != nil {
		return s, Reply{}, refuse(Contradicts, "advancing to %v: the pending %v does not continue it: %v", t, s.Pending.Tree, err)
	}
	s.Log = req.Signed
	s = s.changed()
	return s, s.Reply(), nil
}

// SignSubtree is sign-subtree of tlog-witness. The caller has verified that
// Checkpoint bears a cosignature of the same identity that is to sign, that the
// range is a valid subtree, and its consistency proof.
type SignSubtree struct {
	Start, End int64
	Checkpoint Tree
}

// SignSubtree allows the signature. It changes nothing.
func (s State) SignSubtree(req SignSubtree) (State, Reply, error) {
	if req.Start < 0 || req.Start >= req.End || req.End > req.Checkpoint.Size {
		return s, Reply{}, refuse(Malformed, "subtree [%d, %d) of a checkpoint of size %d: send a range within it", req.Start, req.End, req.Checkpoint.Size)
	}
	// The cosignature is this key's own: one that the record does not know of was
	// made from another record.
	signed := s.Cosigned().Tree
	if req.Checkpoint.Size > signed.Size || req.Checkpoint.Size == signed.Size && req.Checkpoint.Root != signed.Root {
		return s, Reply{}, refuse(StateLost, "cosigner %s has signed %v, and its record knows only %v: replace the member by one with a new key", s.Key, req.Checkpoint, signed)
	}
	return s, s.Reply(), nil
}
