package ledger

import (
	"fmt"

	"github.com/opencontainers/go-digest"
)

// Bundle is what 'pyrsia proof' writes: an entry and its tlog-proof, and those of
// each block that withdraws something of it.
type Bundle struct {
	Entry     string   `json:"entry"`
	Proof     string   `json:"proof"`
	Withdrawn []Bundle `json:"withdrawn,omitempty"`
}

// Verify checks a proof of the image with a digest, which must not say that the
// digest is withdrawn. What was withdrawn after the proof was made, it cannot say.
func (b Bundle) Verify(v *Verifier, d digest.Digest) (*VerifiedBlock, error) {
	block, err := VerifyBlock(v, []byte(b.Entry), []byte(b.Proof))
	if err != nil {
		return nil, err
	}
	image, err := ParseImage(block.Artifact.Artifact)
	if err != nil {
		return nil, err
	}
	for _, w := range b.Withdrawn {
		for _, target := range []digest.Digest{block.Artifact.Digest, d} {
			by, reason, err := VerifyWithdrawal(v, []byte(w.Entry), []byte(w.Proof), Target{Image: image, Digest: target, Block: block.Height})
			if err == nil {
				return nil, fmt.Errorf("%s is block %d, and was withdrawn by the publisher in block %d: %s", block.Artifact.Artifact, block.Height, by.Height, reason)
			}
		}
	}
	return block, nil
}
