// What Ollama does with a TEMPLATE, by the text/template of Go's own library: template.Parse and Template.Execute of
// ollama/ollama template/template.go at fb30760 (2026-08-21, MIT), without tools and images.
//
// Requests come as JSON, one a line, on standard input: {"template": "...", "messages": [{"role": "user", "content": "..."}]}, or
// {"template": "...", "fields": {...}} to run it on any data. Each is answered by one line: {"text": "..."}, or {"parse": "..."} where
// Go refuses the template and {"run": "..."} where it stops while running it.
package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"os"
	"strings"
	"text/template"
	"time"
)

// Message has the fields that a template may read.
type Message struct {
	Role       string
	Content    string
	Thinking   string
	Images     []string
	ToolCalls  []string
	ToolName   string
	ToolCallID string
}

type request struct {
	Template string
	Messages []Message
	Fields   map[string]any
}

var funcs = template.FuncMap{
	"json": func(v any) string {
		data, _ := json.Marshal(v)
		return string(data)
	},
	"currentDate":      func(args ...string) string { return time.Now().Format("2006-01-02") },
	"yesterdayDate":    func(args ...string) string { return time.Now().AddDate(0, 0, -1).Format("2006-01-02") },
	"toTypeScriptType": func(v any) string { return "any" },
}

func main() {
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(nil, 1<<24)
	answers := json.NewEncoder(os.Stdout)
	answers.SetEscapeHTML(false)
	for lines.Scan() {
		var asked request
		if err := json.Unmarshal(lines.Bytes(), &asked); err != nil {
			panic(err)
		}
		answers.Encode(answer(asked))
	}
}

func answer(asked request) map[string]string {
	tree, err := template.New("").Option("missingkey=zero").Funcs(funcs).Parse(asked.Template)
	if err != nil {
		return map[string]string{"parse": err.Error()}
	}
	var text bytes.Buffer
	if asked.Fields != nil {
		err = tree.Execute(&text, asked.Fields)
	} else {
		err = converse(tree, &text, asked.Messages)
	}
	if err != nil {
		return map[string]string{"run": err.Error()}
	}
	return map[string]string{"text": text.String()}
}

// converse renders a conversation up to where the model goes on. Ollama runs templates without .Messages another way, which we never ship.
func converse(tree *template.Template, text *bytes.Buffer, messages []Message) error {
	system, turns := collate(messages)
	return tree.Execute(text, map[string]any{
		"System": system, "Messages": turns, "Tools": nil, "Response": "", "Think": false, "ThinkLevel": "", "IsThinkSet": false,
	})
}

// collate merges turns of one role that follow each other, and joins all system messages.
func collate(messages []Message) (string, []*Message) {
	var system []string
	var turns []*Message
	for i := range messages {
		if messages[i].Role == "system" {
			system = append(system, messages[i].Content)
		}
		if n := len(turns); n > 0 && turns[n-1].Role == messages[i].Role && messages[i].Role != "tool" {
			turns[n-1].Content += "\n\n" + messages[i].Content
		} else {
			turns = append(turns, &messages[i])
		}
	}
	return strings.Join(system, "\n\n"), turns
}
