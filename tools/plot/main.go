// Command plot draws the curves that `make bench` has found, as SVG: plot from to.
package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/plotutil"
	"gonum.org/v1/plot/vg"
)

// curve is what test/bench writes.
type curve struct {
	Title, X, Y string
	Lines       []struct {
		Name   string
		Points [][2]float64
	}
}

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "want a folder with curves, and one for the plots: plot FROM TO")
		os.Exit(2)
	}
	found, err := filepath.Glob(filepath.Join(os.Args[1], "*.json"))
	if err == nil && len(found) == 0 {
		err = fmt.Errorf("%s has no curves", os.Args[1])
	}
	for _, path := range found {
		if err == nil {
			err = draw(path, filepath.Join(os.Args[2], strings.TrimSuffix(filepath.Base(path), ".json")+".svg"))
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// draw draws one curve. Its axes begin at nothing, but for what grows tenfold: that is on a logarithmic one.
func draw(from, to string) error {
	text, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	var of curve
	if err := json.Unmarshal(text, &of); err != nil {
		return fmt.Errorf("%s: %w", from, err)
	}
	p := plot.New()
	p.Title.Text, p.X.Label.Text, p.Y.Label.Text = of.Title, of.X, of.Y
	p.Y.Min = 0
	for i, one := range of.Lines {
		at := make(plotter.XYs, len(one.Points))
		for i, point := range one.Points {
			at[i].X, at[i].Y = point[0], point[1]
		}
		line, points, err := plotter.NewLinePoints(at)
		if err != nil {
			return fmt.Errorf("%s: %s: %w", from, one.Name, err)
		}
		line.Color, points.Color, points.Shape = plotutil.Color(i), plotutil.Color(i), plotutil.Shape(i)
		line.Width = vg.Points(1.5)
		p.Add(line, points)
		if len(of.Lines) > 1 {
			p.Legend.Add(one.Name, line, points)
		}
	}
	p.Add(plotter.NewGrid())
	p.Legend.Top, p.Legend.Left = true, true
	p.Y.Min, p.Y.Max, p.X.Max = 0, p.Y.Max*1.1, p.X.Max*1.05 // the last numbers have room
	if p.X.Max/max(p.X.Min, 1) >= 100 {
		p.X.Scale, p.X.Tick.Marker, p.X.Max = plot.LogScale{}, plot.LogTicks{Prec: -1}, p.X.Max*1.4
	}
	return p.Save(12*vg.Centimeter, 8*vg.Centimeter, to)
}
