"use strict";
// Draws the charts with plotly from the data in the page, in the colours of the page's theme.
const Charts = (() => {
  const SYMBOLS = ["circle", "square", "diamond", "triangle-up", "triangle-down", "cross", "x", "triangle-left", "triangle-right", "star"];
  const DARKER_IS_MORE = [[0, "#fff7e0"], [0.25, "#fdd49e"], [0.5, "#fc8d59"], [0.75, "#c0391b"], [1, "#5c0f12"]];
  const NICE = [0, 1, 2, 3, 4, 5].flatMap((power) => [1, 2, 5].map((digit) => digit * 10 ** power));
  const specs = new Map(JSON.parse(document.getElementById("charts").textContent).map((spec) => [spec.id, spec]));
  const drawn = new Set();

  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  // Plotly reads a little HTML in its texts; names are to be shown as they are.
  const plain = (text) => String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");

  function wrapped(text, width) {
    const lines = [""];
    for (const word of String(text).split(/\s+/)) {
      const last = lines[lines.length - 1];
      if (last && last.length + word.length >= width) lines.push(word);
      else lines[lines.length - 1] = last ? `${last} ${word}` : word;
    }
    return lines.map(plain).join("<br>");
  }

  function axis(spec, theme, labelWidth) {
    const made = {
      title: { text: plain(spec.title), standoff: 12, font: { size: 13 } },
      type: spec.log ? "log" : "linear",
      gridcolor: theme.line, linecolor: theme.line, zeroline: false, automargin: true, tickfont: { size: 12.5 },
    };
    if (spec.percent) made.tickformat = ".0%";
    if (spec.log) Object.assign(made, { tickmode: "array", tickvals: NICE, ticktext: NICE.map((value) => value.toLocaleString("en")) });
    if (spec.ticks) {
      made.tickmode = "array";
      made.tickvals = spec.ticks.map(([place]) => place);
      made.ticktext = spec.ticks.map(([, name]) => wrapped(name, labelWidth));
      made.showgrid = !spec.reverse;
    }
    if (spec.range) made.range = spec.reverse ? [spec.range[1], spec.range[0]] : spec.range;
    return made;
  }

  function errors(values, bounds, tint) {
    if (!bounds) return undefined;
    const reach = (sign) => values.map((value, i) => {
      const bound = bounds[i][sign > 0 ? 1 : 0];
      return value === null || bound === null ? 0 : Math.max(0, sign * (bound - value));
    });
    return { type: "data", symmetric: false, array: reach(1), arrayminus: reach(-1), thickness: 1.6, width: 4, color: tint };
  }

  function trace(series, theme) {
    const tint = theme.palette[series.colour % theme.palette.length];
    const common = {
      name: plain(series.name), x: series.x, y: series.y, customdata: series.models,
      hovertext: series.texts.map((text) => wrapped(text, 52)), hoverinfo: series.texts.length ? "text" : "x+y",
    };
    if (series.mode === "bars") {
      const pattern = { shape: series.pattern, size: 7, solidity: 0.3, fillmode: "overlay", fgcolor: theme.panel };
      return { ...common, type: "bar", orientation: "h", base: series.base, width: 0.72,
        marker: { color: tint, pattern, line: { color: theme.panel, width: 1 } } };
    }
    const symbol = SYMBOLS[series.symbol % SYMBOLS.length] + (series.hollow ? "-open" : "");
    return { ...common, type: "scatter", cliponaxis: false,
      mode: { marks: "markers", line: "lines", "line+marks": "lines+markers" }[series.mode],
      marker: { color: tint, symbol, size: series.labelled ? 13 : 10, line: { width: series.hollow ? 2 : series.labelled ? 2 : 1, color: series.hollow ? tint : series.labelled ? "#fff" : theme.panel } },
      line: { color: tint, width: 2.2, dash: series.dashed ? "dash" : "solid" },
      error_x: errors(series.x, series.x_bounds, tint), error_y: errors(series.y, series.y_bounds, tint),
    };
  }

  function surface(grid, theme) {
    const flat = grid.x.length < 2 || grid.y.length < 2;
    return { type: flat ? "heatmap" : "contour", x: grid.x, y: grid.y, z: grid.values, zmin: 0, zmax: 1, colorscale: DARKER_IS_MORE,
      contours: { start: 0, end: 1, size: 0.1 }, line: { width: 0.5, color: "rgba(0,0,0,.25)" }, hovertemplate: "ASR %{z:.0%}<br>(%{x:.3g}, %{y:.3g})<extra></extra>",
      colorbar: { title: { text: plain(grid.title) }, tickformat: ".0%", thickness: 14, outlinewidth: 0, tickcolor: theme.line } };
  }

  // Every second row of a list of marks is shaded, so that the eye keeps to it.
  function bands(spec, theme) {
    if (!spec.y.reverse || spec.series.some((series) => series.mode === "bars")) return [];
    return spec.y.ticks.filter((_, row) => row % 2).map(([place]) => ({ type: "rect", layer: "below", fillcolor: theme.wash, opacity: 0.6,
      line: { width: 0 }, xref: "paper", x0: 0, x1: 1, y0: place - 0.5, y1: place + 0.5 }));
  }

  // Rows have to be as high as their names are, where these are broken into lines.
  function heightOfLabels(spec, labelWidth) {
    if (!spec.y.reverse) return 0;
    const lines = Math.max(...spec.y.ticks.map(([, name]) => wrapped(name, labelWidth).split("<br>").length));
    return 96 + spec.y.ticks.length * (6 + 16 * lines);
  }

  // Names beside marks, on a ground of their own, since what is below may have any colour; below those at the upper edge.
  function labels(spec, theme) {
    return spec.series.filter((series) => series.labelled).flatMap((series) => series.x.map((x, i) => ({ x, y: series.y[i], text: plain(series.name),
      showarrow: false, yshift: spec.y.percent && series.y[i] > 0.9 ? -19 : 19, bgcolor: theme.panel, opacity: 0.9, borderpad: 2, font: { size: 12, color: theme.ink } })));
  }

  function layout(spec, theme, width) {
    const narrow = width < 560;
    const rows = Math.ceil(spec.series.length / (narrow ? 2 : 5));
    const labelWidth = narrow ? 16 : 38;
    const named = spec.series.length > 1 || spec.series.some((series) => series.mode.startsWith("line"));
    return {
      height: Math.max(spec.height, heightOfLabels(spec, labelWidth)) + (named ? rows * 20 : 0), width,
      margin: { l: 12, r: 14, t: named ? 22 + rows * 20 : 14, b: 44 },
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", hovermode: "closest", barmode: "overlay",
      dragmode: matchMedia("(pointer: fine)").matches ? "zoom" : false,
      font: { family: colour("--sans"), size: 13, color: theme.ink },
      hoverlabel: { bgcolor: theme.panel, bordercolor: theme.line, font: { color: theme.ink, size: 13 }, align: "left" },
      showlegend: named, legend: { orientation: "h", x: 0, xanchor: "left", y: 1, yanchor: "bottom", font: { size: 12.5 }, itemsizing: "constant" },
      xaxis: axis(spec.x, theme, 14), yaxis: axis(spec.y, theme, labelWidth),
      shapes: [...bands(spec, theme), ...spec.references.map((line) => ({ type: "line", line: { color: theme.soft, width: 1.5, dash: "dot" },
        ...(line.axis === "x" ? { x0: line.at, x1: line.at, yref: "paper", y0: 0, y1: 1 } : { y0: line.at, y1: line.at, xref: "paper", x0: 0, x1: 1 }) }))],
      annotations: [...labels(spec, theme), ...spec.references.map((line) => ({ text: plain(line.text), showarrow: false, font: { size: 12, color: theme.soft },
        ...(line.axis === "x" ? { x: line.at, yref: "paper", y: 0.5, textangle: -90, xshift: 10 } : { y: line.at, xref: "paper", x: 0.98, yshift: 10 }) }))],
    };
  }

  function readTheme() {
    const palette = [...Array(8).keys()].map((i) => colour(`--c${i}`));
    return { palette, ink: colour("--ink"), soft: colour("--soft"), line: colour("--line"), panel: colour("--panel"), wash: colour("--wash") };
  }

  function draw(id, width) {
    const spec = specs.get(id);
    const place = document.querySelector(`#chart-${CSS.escape(id)} .plot`);
    const theme = readTheme();
    const traces = [...(spec.grid ? [surface(spec.grid, theme)] : []), ...spec.series.map((series) => trace(series, theme))];
    const options = { displaylogo: false, responsive: false, displayModeBar: "hover", showTips: false,
      modeBarButtons: [["toImage", "resetScale2d"]], toImageButtonOptions: { format: "svg", filename: id } };
    Plotly.react(place, traces, layout(spec, theme, width || place.clientWidth), options);
    if (!drawn.has(id)) {
      drawn.add(id);
      place.on("plotly_click", ({ points }) => {
        const model = points[0].customdata;
        if (Number.isInteger(model) && spec.suite) {
          document.dispatchEvent(new CustomEvent("replies", { detail: { model, suite: spec.suite, judge: spec.judge, outcome: points[0].data.type === "bar" ? points[0].data.name : null } }));
        }
      });
    }
  }

  return { ids: [...specs.keys()], draw, isDrawn: (id) => drawn.has(id) };
})();
