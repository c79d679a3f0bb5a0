// Package chart tests the Helm chart with Helm's own packages, and the manifests beside it.
package chart
