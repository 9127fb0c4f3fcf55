//go:build tools

// Package tools names the control plane's programs as dependencies of this module: the go.mod of
// k8s.io/kubernetes holds replace directives, so `go install …@version` refuses it.
package tools

import (
	_ "k8s.io/kubernetes/cmd/kube-apiserver"          // built by name
	_ "k8s.io/kubernetes/cmd/kube-controller-manager" // built by name
	_ "k8s.io/kubernetes/cmd/kube-scheduler"          // built by name
)
