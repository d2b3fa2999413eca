package report

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/pyrsia/pyrsia-operator/node/control"
)

// Plan lists the images of a set to out, and what is wrong with it to problems.
func Plan(out, problems io.Writer, list *control.ListResponse) error {
	repositories := map[string]bool{}
	for _, image := range list.Images {
		fmt.Fprintln(out, image)
		repositories[image[:strings.LastIndex(image, ":")]] = true
	}
	tw := tabwriter.NewWriter(problems, 0, 0, 3, ' ', 0)
	for _, p := range list.Problems {
		fmt.Fprintf(tw, "%s\t%s\t%s\n", p.What, p.Reason, p.Message)
	}
	if err := tw.Flush(); err != nil {
		return err
	}
	_, err := fmt.Fprintf(problems, "%d images of %d repositories, %d problems\n", len(list.Images), len(repositories), len(list.Problems))
	return err
}
