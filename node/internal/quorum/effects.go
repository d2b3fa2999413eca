package quorum

// Effect is something that the caller does for a Proposer: one of the types below.
// Effects are carried out in their order. A Save is durable before anything after it
// begins; all others may take their time, and are repeated if they fail.
type Effect interface{ effect() }

// Request is what a member is asked for: Look, Prepare, Stage, Commit, Keep or
// Confirm.
type Request interface{ request() }

func (Look) request()    {}
func (Prepare) request() {}
func (Stage) request()   {}
func (Commit) request()  {}
func (Keep) request()    {}
func (Confirm) request() {}

// Send sends a request to a member. The caller adds the entries of a Stage. The
// answer goes to Promised, Replied or Refused together with the request. One request
// at a time is enough for a member: a newer one replaces one that is not sent yet.
type Send struct {
	To      Member
	Request Request
}

// Save makes Own durable.
type Save struct{ Own Own }

// Fetch gets all entries of a tree from any of the members, or the own disk, and
// verifies its root; then Fetched, or Unavailable for a member that does not answer.
type Fetch struct {
	Tree    Tree
	Holders []Member
}

// Index reads the entries of a tree, so that each image in it can be looked up;
// then Indexed.
type Index struct{ Tree Tree }

// Build appends images to a tree in memory, with the time of now; then Built.
type Build struct {
	Base   Tree
	Images []string
}

// Sign signs a tree with the log's key or keys, stating the time At; then Signed.
type Sign struct {
	Tree Tree
	At   int64
}

// Cosign asks outside witnesses and mirrors for cosignatures, while those of
// members come with their answers to Commit. Once all together satisfy the policy:
// Proven. Cosignatures for an earlier signature of the same tree count too.
type Cosign struct{ Signed Signed }

// Acked says that all blocks of a tree can be acknowledged. Nothing else says so.
type Acked struct {
	Proven Signed
	// Images are those of the last batch, which are held no longer.
	Images []string
}

// Moved says that a configuration is in force, for the operator's status.
type Moved struct{ Config Config }

func (Send) effect()   {}
func (Save) effect()   {}
func (Fetch) effect()  {}
func (Index) effect()  {}
func (Build) effect()  {}
func (Sign) effect()   {}
func (Cosign) effect() {}
func (Acked) effect()  {}
func (Moved) effect()  {}
