package command

import (
	"cmp"
	"io"
	"os"

	"maascert/internal/report"
)

// document is what a command found, with its two faces.
type document interface{ Words(w io.Writer) }

// show writes a document to standard output in the face that is asked for. The exit code says whether all is as it should be.
func (a *app) show(doc document, asJSON, healthy bool) error {
	if err := a.write(doc, asJSON); err != nil {
		return err
	}
	return attentionUnless(healthy)
}

func (a *app) write(doc document, asJSON bool) error {
	if asJSON {
		a.isWritten = true
		return report.WriteJSON(a.stdout, doc)
	}
	if wrong, isKnown := doc.(interface{ Wrong(w io.Writer) }); a.isQuiet && isKnown {
		wrong.Wrong(newFace(a.stdout, cmp.Or(a.columns, columnsOf(a.stdout)), os.Getenv))
		return nil
	}
	doc.Words(a.words)
	return nil
}
