//go:build parts

// Package parts names the programs that .ci/kubernetes-setup builds, so that go.mod and go.sum pin
// them and all that they need.
package parts

import (
	_ "go.etcd.io/etcd/server/v3"
	_ "k8s.io/kubernetes/cmd/kube-apiserver"
)
