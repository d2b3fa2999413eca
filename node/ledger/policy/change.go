package policy

import "fmt"

// Stated is a policy as its administrator stated it. Each change has a higher generation.
type Stated struct {
	*Policy
	Generation int64
}

// Weaker says in what a policy promises less than the one before it; nil if in nothing. A weaker one must not
// be taken over unless its administrator says explicitly that it should be.
func Weaker(was, next Stated) (reasons []string) {
	if next.Generation < was.Generation {
		reasons = append(reasons, fmt.Sprintf("generation %d is older than %d", next.Generation, was.Generation))
	}
	if next.Generation == was.Generation && next.Hash() != was.Hash() {
		reasons = append(reasons, fmt.Sprintf("generation %d names two policies, %s and %s", next.Generation, was.Hash(), next.Hash()))
	}
	if next.None() && !was.None() {
		reasons = append(reasons, "it asks for no cosignature at all (quorum none)")
	}
	switch a, b := was.Survives(), next.Survives(); {
	case b >= a:
	case b < 0:
		reasons = append(reasons, "two quorums need not share any cosigner, so that two histories can satisfy it")
	default:
		reasons = append(reasons, fmt.Sprintf("two quorums survive %d bad cosigners rather than %d", b, a))
	}
	if a, b := was.Independent(), next.Independent(); b < a {
		reasons = append(reasons, fmt.Sprintf("independent administrations are %d rather than %d", b, a))
	}
	return reasons
}
