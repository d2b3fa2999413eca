package main

import (
	"encoding/json"
	"fmt"
	"io"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/cli-runtime/pkg/genericclioptions"
)

// output prints answers as kubectl does: as a table, or as -o asks for.
type output struct {
	format string
	data   *genericclioptions.JSONYamlPrintFlags
	path   *genericclioptions.JSONPathPrintFlags
}

func newOutput(cmd *cobra.Command) *output {
	o := &output{data: genericclioptions.NewJSONYamlPrintFlags(), path: genericclioptions.NewJSONPathPrintFlags("", true)}
	cmd.Flags().StringVarP(&o.format, "output", "o", "", "wide, json, yaml, jsonpath=TEMPLATE, jsonpath-file=FILE or jsonpath-as-json=TEMPLATE (default: a table)")
	o.path.AddFlags(cmd)
	return o
}

// print writes an answer. table writes it for people, with more columns if it is wide.
func (o *output) print(w io.Writer, answer any, table func(wide bool) error) error {
	switch o.format {
	case "", "table", "wide":
		return table(o.format == "wide")
	}
	printer, err := o.data.ToPrinter(o.format)
	if genericclioptions.IsNoCompatiblePrinterError(err) {
		printer, err = o.path.ToPrinter(o.format)
	}
	if genericclioptions.IsNoCompatiblePrinterError(err) {
		return fmt.Errorf("-o %s: want wide, json, yaml or jsonpath=TEMPLATE", o.format)
	}
	if err != nil {
		return err
	}
	data, err := json.Marshal(answer)
	if err != nil {
		return err
	}
	// What a node answers is no object of the API server's: it has no kind.
	return printer.PrintObj(&runtime.Unknown{Raw: data, ContentType: runtime.ContentTypeJSON}, w)
}
