package client

import (
	"context"
	"fmt"
	"net/url"

	"github.com/pyrsia/pyrsia-operator/node/ledger"
)

// LookupBatch is how many questions one Lookup takes: names and digests stand in the
// URL of the request, which servers on the way bound to some kilobytes.
const LookupBatch = 48

// Lookup asks what the ledger says of up to LookupBatch images, under one head. Each
// question is what ledger.ParseReference reads, with all digits of its digest.
func (c *Client) Lookup(ctx context.Context, questions []string) (answer ledger.LookupJSON, err error) {
	if err := c.question(ctx, "api/v1/lookup?"+url.Values{"q": questions}.Encode(), &answer); err != nil {
		return answer, err
	}
	if len(answer.Answers) != len(questions) {
		return answer, fmt.Errorf("the node answered %d of %d questions", len(answer.Answers), len(questions))
	}
	return answer, nil
}
