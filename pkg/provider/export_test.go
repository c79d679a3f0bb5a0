package provider

import "time"

// Age makes a provider's discovery document older.
func Age(p *Provider, by time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	older := *p.discovered
	older.at = older.at.Add(-by)
	p.discovered = &older
}
