//go:build tools

// Package tools names promtool as a dependency of this module: the go.mod of prometheus holds
// replace directives, so `go install …@version` refuses it.
package tools

import _ "github.com/prometheus/prometheus/cmd/promtool" // built by name
