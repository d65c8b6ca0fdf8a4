package manifest

import (
	"errors"
	"fmt"
	"strings"

	"github.com/fluxcd/pkg/envsubst/parse"
)

const (
	// maxExpressions in one object: they are parsed by recursion.
	maxExpressions = 50_000
	// maxSteps of one build: bytes that are copied or compared.
	maxSteps = 1 << 32
)

// work bounds what the substitution of one build may cost. Functions such as
// ${v//a/b} multiply what they are given, and ${v##*a} compares every prefix,
// so the cost is judged before anything is evaluated.
type work struct {
	rendered int64
	steps    int64
}

func newWork(l Limits) *work { return &work{rendered: l.Rendered, steps: maxSteps} }

var errSteps = errors.New("its expressions would take too long: shorten the values that patterns are removed from, or use fewer $$")

// admit judges the text of one object.
func (w *work) admit(text string, values map[string]string) error {
	if n := strings.Count(text, "${"); n > maxExpressions {
		return fmt.Errorf("it has %d expressions, more than the limit of %d", n, maxExpressions)
	}
	if w.take(int64(strings.Count(text, "$$")), int64(len(text))); w.steps < 0 {
		return errSteps
	}
	tree, err := parseTree(text)
	if err != nil {
		return err
	}
	size := w.size(tree.Root, values)
	if w.steps < 0 {
		return errSteps
	}
	if w.rendered -= size; w.rendered < 0 {
		return errors.New("its expressions would give more than the limit of the build")
	}
	return nil
}

func parseTree(text string) (tree *parse.Tree, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = errors.New("malformed expression")
		}
	}()
	return parse.Parse(text)
}

// take charges a cost of a times b.
func (w *work) take(a, b int64) {
	if a > 0 && b > maxSteps/a {
		w.steps = -1
	}
	w.steps -= a * b
}

// size is the most that a node can give, in bytes.
func (w *work) size(node parse.Node, values map[string]string) int64 {
	switch n := node.(type) {
	case *parse.TextNode:
		return int64(len(n.Value))
	case *parse.ListNode:
		var sum int64
		for _, child := range n.Nodes {
			sum = bounded(sum + w.size(child, values))
		}
		return sum
	case *parse.FuncNode:
		return w.sizeOfFunction(n, values)
	}
	return 0
}

func (w *work) sizeOfFunction(n *parse.FuncNode, values map[string]string) int64 {
	value := int64(len(values[n.Param]))
	var all, last int64
	for _, arg := range n.Args {
		last = w.size(arg, values)
		all = bounded(all + last)
	}
	switch n.Name {
	case "//":
		return bounded(value + product(value+1, last))
	case "#", "##", "%", "%%":
		w.take(value, bounded(value+all))
		return value + 20
	case ",", ",,", "^", "^^":
		return 3 * value // letters can grow
	}
	return bounded(value + all)
}

const tooMuch = 1 << 50

func bounded(n int64) int64 { return min(n, tooMuch) }

func product(a, b int64) int64 {
	if a > 0 && b > tooMuch/a {
		return tooMuch
	}
	return a * b
}
