//go:build tools

// Package tools names etcd as a dependency of this module: the go.mod of etcd's server holds
// replace directives, so `go install …@version` refuses it.
package tools

import _ "go.etcd.io/etcd/server/v3" // built by name
