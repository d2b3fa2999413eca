package report

import (
	"encoding/json"
	"fmt"
	"io"
	"os"

	"github.com/pyrsia/pyrsia-operator/node/ledger"
)

// Proof writes a proof, as `pyrsia verify` reads it, to a file, or to out where file
// is empty. Withdrawals of the image are warnings.
func Proof(out, warnings io.Writer, file string, proof ledger.Bundle, withdrawn []ledger.WithdrawnJSON) error {
	for _, w := range withdrawn {
		fmt.Fprintf(warnings, "Warning: %s is withdrawn by block %d: %s\n", w.Digest, w.By, w.Reason)
	}
	data, err := json.MarshalIndent(proof, "", "  ")
	if err != nil {
		return fmt.Errorf("writing the proof: %w", err)
	}
	if file == "" {
		_, err = fmt.Fprintf(out, "%s\n", data)
		return err
	}
	return os.WriteFile(file, append(data, '\n'), 0o644)
}
