package chart

import (
	"os"
	"regexp"
	"testing"
)

// An image that comes from elsewhere is named by a full version or by its digest: what is built today is
// built of the same tomorrow.
func TestImagesFromElsewhereHaveAFullVersion(t *testing.T) {
	named := regexp.MustCompile(`(?m)(?:^FROM |image: |postgresImage: )["']?([a-z0-9./-]+)(:[^\s"']*)?`)
	// Three numbers; PostgreSQL's versions have two.
	full := regexp.MustCompile(`^:([0-9]+\.[0-9]+\.[0-9]+|[0-9]{2,}\.[0-9]+)(-[a-z0-9.]+)?(@sha256:[0-9a-f]{64})?$`)
	for file, want := range map[string]int{"deploy/image/Dockerfile": 1, "deploy/compose/compose.yaml": 1, "helm/wts/values.yaml": 1} {
		t.Run(file, func(t *testing.T) {
			text, err := os.ReadFile(root + "/" + file)
			if err != nil {
				t.Fatal(err)
			}
			found := 0
			for _, image := range named.FindAllStringSubmatch(string(text), -1) {
				if image[1] == "wts" || image[1] == "scratch" {
					continue
				}
				found++
				if !full.MatchString(image[2]) {
					t.Errorf("%s%s has no full version", image[1], image[2])
				}
			}
			if found != want {
				t.Errorf("found %d images, want %d", found, want)
			}
		})
	}
}
