package web

// Integrations is the page of the ProteinPaint servers that portals embed, for admins.
type Integrations struct{ Rows []IntegrationRow }

func (Integrations) page() page {
	return page{file: "integrations.html", view: ViewAdmin, title: "Integrations"}
}

// IntegrationRow is one of them.
type IntegrationRow struct {
	ID, Dataset, Algorithm string
	Embedders              []string
}

// Integration is the page of one: what to copy, the keys, the roles, and whether it works.
type Integration struct {
	IntegrationRow
	Route, IP, Header string
	Cohorts, Origins  []string
	// Config is the block of ProteinPaint's configuration; empty where there is no key yet. PEM is the public key, and
	// empty for a secret.
	Config, PEM, Snippet string
	// Files is where the files of the integration are, and Action where its forms post to.
	Files, Action string
	Instance      string // the base URL of the ProteinPaint server; empty where it is not known
	Keys          []KeyRow
	// Owned: its keys are made here. Signs: one of them signs. Next: one waits.
	Owned, Signs, Next          bool
	Make, Activate, Force, Drop Confirm
	Roles                       []RoleRow
	Made                        *Made
}

func (i Integration) page() page {
	return page{file: "integration.html", view: ViewAdmin, title: i.ID}
}

// RoleRow is a role, whom it is for, and the claims that a person of it gets.
type RoleRow struct{ Who, Result, Preview string }
