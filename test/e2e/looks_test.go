//go:build e2e

package e2e

import (
	"fmt"
	"path/filepath"
	"strings"
)

// look judges how a page looks, wide and narrow, light and dark, and keeps pictures of it in a folder.
func (p *person) look(folder, name string) {
	p.t.Helper()
	for _, width := range []int{1280, 320} {
		for _, dark := range []bool{false, true} {
			p.do("shown", with{"width": width, "dark": dark}, nil)
			shade := map[bool]string{false: "light", true: "dark"}[dark]
			if folder != "" {
				p.do("shot", with{"path": filepath.Join(folder, fmt.Sprintf("%s-%d-%s.png", name, width, shade))}, nil)
			}
			var violations []string
			if dark == (width < 1280) { // each width and each shade once; then what depends on both
				p.do("axe", with{}, &violations)
			} else {
				p.do("axe", with{"rules": []string{"color-contrast"}}, &violations)
			}
			for _, violation := range violations {
				p.t.Errorf("%s, %d pixels wide, %s: %s", name, width, shade, violation)
			}
			shown := p.page()
			if shown.Width > width {
				p.t.Errorf("%s is %d pixels wide where there are %d", name, shown.Width, width)
			}
			if len(shown.Torn) > 0 {
				p.t.Errorf("%s, %d pixels wide, tears the words %q", name, width, shown.Torn)
			}
		}
	}
	p.do("shown", with{"width": 1280, "dark": false}, nil)
	p.calm()
}

// alone checks that pages of wts needed nothing from another host.
func (p *person) alone(public string) {
	p.t.Helper()
	var all []request
	p.do("requests", with{}, &all)
	for _, one := range all {
		if strings.HasPrefix(one.By, public) && !strings.HasPrefix(one.URL, public) && !strings.HasPrefix(one.URL, "data:") {
			p.t.Errorf("%s asked for %s", one.By, one.URL)
		}
	}
}
