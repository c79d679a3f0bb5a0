package web

import (
	"fmt"
	"html/template"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Docs is the reference of the API, as api/openapi.yaml has it.
type Docs struct {
	Title, Summary, Description string
	Groups                      []DocsGroup
	Schemas                     []DocsSchema
}

// DocsGroup is the operations of a tag.
type DocsGroup struct {
	Name, Description string
	Operations        []DocsOperation
}

// DocsOperation is what one method of a path does.
type DocsOperation struct {
	ID, Method, Path, Summary, Description string
	Parameters                             []DocsField
	Body                                   []DocsBody
	Answers                                []DocsBody
}

// DocsBody is a body of a request, or an answer.
type DocsBody struct {
	Status, Description, Type string // the type of its media
	Of                        string // the name of its schema, where it has one
	Fields                    []DocsField
}

// DocsField is a parameter, or a member of a body.
type DocsField struct {
	Name, In, Type, Of, Description string
	Required                        bool
}

// DocsSchema is a schema that has a name.
type DocsSchema struct {
	Name, Description string
	Fields            []DocsField
}

func (Docs) page() page { return page{file: "docs.html", title: "API", wide: true} }

// described is the part of an OpenAPI document that the page shows.
type described struct {
	Info       struct{ Title, Summary, Description string }
	Tags       []struct{ Name, Description string }
	Paths      yaml.Node // in the order of the file
	Components struct {
		Schemas    map[string]schema
		Responses  map[string]response
		Parameters map[string]parameter
	}
}

type schema struct {
	Ref                 string `yaml:"$ref"`
	Type                any
	Format, Description string
	Enum, Required      []string
	Items               *schema
	AnyOf               []schema `yaml:"anyOf"`
	Properties          yaml.Node
}

type media struct{ Schema schema }

type response struct {
	Ref         string `yaml:"$ref"`
	Description string
	Content     map[string]media
}

type parameter struct {
	Ref                   string `yaml:"$ref"`
	Name, In, Description string
	Required              bool
	Schema                schema
}

type operation struct {
	ID                   string `yaml:"operationId"`
	Tags                 []string
	Summary, Description string
	Parameters           []parameter
	RequestBody          struct{ Content map[string]media } `yaml:"requestBody"`
	Responses            map[string]response
}

// NewDocs reads an OpenAPI document.
func NewDocs(text []byte) (Docs, error) {
	var read described
	if err := yaml.Unmarshal(text, &read); err != nil {
		return Docs{}, fmt.Errorf("reading the description of the API: %w", err)
	}
	docs := Docs{Title: read.Info.Title, Summary: read.Info.Summary, Description: read.Info.Description}
	for _, tag := range read.Tags {
		docs.Groups = append(docs.Groups, DocsGroup{Name: tag.Name, Description: tag.Description})
	}
	err := eachPair(&read.Paths, func(path string, item *yaml.Node) error { return read.addPath(&docs, path, item) })
	if err != nil {
		return Docs{}, fmt.Errorf("reading the paths of the API: %w", err)
	}
	for name, one := range read.Components.Schemas {
		docs.Schemas = append(docs.Schemas, DocsSchema{Name: name, Description: one.Description, Fields: one.fields()})
	}
	slices.SortFunc(docs.Schemas, func(a, b DocsSchema) int { return strings.Compare(a.Name, b.Name) })
	return docs, nil
}

// addPath adds what each method of a path does to the groups of its tags.
func (d *described) addPath(docs *Docs, path string, item *yaml.Node) error {
	var shared []parameter
	return eachPair(item, func(method string, node *yaml.Node) error {
		if method == "parameters" {
			return node.Decode(&shared)
		}
		var one operation
		if err := node.Decode(&one); err != nil {
			return err
		}
		one.Parameters = slices.Concat(shared, one.Parameters)
		for i := range docs.Groups {
			if group := &docs.Groups[i]; slices.Contains(one.Tags, group.Name) {
				group.Operations = append(group.Operations, d.operation(strings.ToUpper(method), path, one))
			}
		}
		return nil
	})
}

// eachPair goes through a mapping in the order in which it is written.
func eachPair(node *yaml.Node, do func(key string, value *yaml.Node) error) error {
	if node.Kind == yaml.AliasNode {
		node = node.Alias
	}
	for i := 0; i+1 < len(node.Content); i += 2 {
		if err := do(node.Content[i].Value, node.Content[i+1]); err != nil {
			return err
		}
	}
	return nil
}

// nameOf is the last part of a reference.
func nameOf(ref string) string { return ref[strings.LastIndexByte(ref, '/')+1:] }

// operation is one as the page shows it.
func (d *described) operation(method, path string, one operation) DocsOperation {
	shown := DocsOperation{ID: one.ID, Method: method, Path: path, Summary: one.Summary, Description: one.Description, Body: bodies("", "", one.RequestBody.Content)}
	for _, of := range one.Parameters {
		if of.Ref != "" {
			of = d.Components.Parameters[nameOf(of.Ref)]
		}
		shown.Parameters = append(shown.Parameters, DocsField{Name: of.Name, In: of.In, Type: of.Schema.kind(), Description: of.Description, Required: of.Required})
	}
	statuses := []string{}
	for status := range one.Responses {
		statuses = append(statuses, status)
	}
	slices.Sort(statuses)
	for _, status := range statuses {
		of := one.Responses[status]
		if of.Ref != "" {
			of = d.Components.Responses[nameOf(of.Ref)]
		}
		if status == "default" {
			status = "others"
		}
		shown.Answers = append(shown.Answers, bodies(status, of.Description, of.Content)...)
	}
	return shown
}

// bodies are the bodies of a request or an answer, one for each media type; one without where there is none.
func bodies(status, description string, content map[string]media) (all []DocsBody) {
	for name, of := range content {
		body := DocsBody{Status: status, Description: description, Type: name, Fields: of.Schema.fields()}
		if of.Schema.Ref != "" {
			body.Of = nameOf(of.Schema.Ref)
		}
		all = append(all, body)
	}
	if len(all) == 0 && status != "" {
		all = append(all, DocsBody{Status: status, Description: description})
	}
	slices.SortFunc(all, func(a, b DocsBody) int { return strings.Compare(a.Type, b.Type) })
	return all
}

// kind is a schema's type in words.
func (s *schema) kind() string {
	switch {
	case s.Ref != "":
		return nameOf(s.Ref)
	case len(s.AnyOf) > 0:
		var kinds []string
		for i := range s.AnyOf {
			kinds = append(kinds, s.AnyOf[i].kind())
		}
		return strings.Join(kinds, " or ")
	case s.Items != nil:
		return "list of " + s.Items.kind()
	case len(s.Enum) > 0:
		return strings.Join(s.Enum, " | ")
	case s.Format != "":
		return s.Format
	}
	if several, ok := s.Type.([]any); ok {
		var kinds []string
		for _, one := range several {
			kinds = append(kinds, fmt.Sprint(one))
		}
		return strings.Join(kinds, " or ")
	}
	if s.Type == nil {
		return "any"
	}
	return fmt.Sprint(s.Type)
}

// fields are the members of an object, in the order of the file.
func (s *schema) fields() (fields []DocsField) {
	_ = eachPair(&s.Properties, func(name string, node *yaml.Node) error { // what was read once is read again
		var of schema
		if err := node.Decode(&of); err != nil {
			return err
		}
		field := DocsField{Name: name, Type: of.kind(), Description: of.Description, Required: slices.Contains(s.Required, name)}
		switch {
		case of.Ref != "":
			field.Of = nameOf(of.Ref)
		case of.Items != nil && of.Items.Ref != "":
			field.Of = nameOf(of.Items.Ref)
		}
		fields = append(fields, field)
		return nil
	})
	return fields
}

// prose is text in which what stands between backquotes is code.
func prose(text string) template.HTML {
	var out strings.Builder
	for i, part := range strings.Split(text, "`") {
		escaped := template.HTMLEscapeString(part)
		if i%2 == 1 {
			escaped = "<code>" + escaped + "</code>"
		}
		out.WriteString(strings.ReplaceAll(escaped, "\n\n", "<br>"))
	}
	return template.HTML(out.String()) //nolint:gosec // every part of it was escaped
}
