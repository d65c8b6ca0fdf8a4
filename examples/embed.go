// Package examples holds the sample that `make run` deploys.
package examples

import "embed"

// Files are repository/ and charts/.
//
//go:embed all:repository all:charts
var Files embed.FS
