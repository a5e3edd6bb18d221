//! The results as bars, in SVG.

use std::fmt::Write as _;

use crate::report::Report;

const WIDTH: f64 = 720.0;
const BAR: f64 = 22.0;
const LABEL: f64 = 190.0;

/// One bar: what, how much, the number as shown, and its colour.
struct Bar {
    label: String,
    value: f64,
    shown: String,
    colour: &'static str,
}

pub(crate) fn svg(report: &Report) -> String {
    let rates = report.rows.iter().flat_map(|row| {
        let etcd = Bar {
            label: format!("etcd txn/s, {} clients", row.clients),
            value: row.etcd_txn_per_s,
            shown: format!("{:.0}", row.etcd_txn_per_s),
            colour: "#9aa5b1",
        };
        let creates = Bar {
            label: format!("creates/s, {} clients", row.clients),
            value: row.creates_per_s,
            shown: format!("{:.0} ({:.0}% of etcd)", row.creates_per_s, row.ratio * 100.0),
            colour: "#2f6f9f",
        };
        [etcd, creates]
    });
    let usable = report.usable.iter().flat_map(|row| {
        [("p50", row.p50_ms, "#2f6f9f"), ("p99", row.p99_ms, "#c26a3d")].map(|(name, value, colour)| Bar {
            label: format!("{name}, {} arrays exist", row.existing),
            value,
            shown: format!("{value:.1} ms"),
            colour,
        })
    });
    let mut body = String::new();
    let mut y = chart(&mut body, 30.0, "Creates, and etcd's own transactions", &rates.collect::<Vec<_>>());
    y = chart(&mut body, y + 40.0, "From create to usable", &usable.collect::<Vec<_>>());
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{}\" font-family=\"sans-serif\" font-size=\"13\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n{body}</svg>\n",
        y + 20.0
    )
}

/// Draws a chart that begins at `y`; where it ends.
fn chart(out: &mut String, y: f64, title: &str, bars: &[Bar]) -> f64 {
    let _ = writeln!(out, "<text x=\"10\" y=\"{y}\" font-weight=\"bold\">{title}</text>");
    let most = bars.iter().map(|bar| bar.value).fold(f64::MIN_POSITIVE, f64::max);
    let mut y = y + 14.0;
    for bar in bars {
        let width = (WIDTH - LABEL - 190.0) * bar.value / most;
        let text = y + BAR * 0.65;
        let _ = writeln!(
            out,
            "<text x=\"{}\" y=\"{text}\" text-anchor=\"end\">{}</text>\
             <rect x=\"{LABEL}\" y=\"{y}\" width=\"{width:.1}\" height=\"{}\" fill=\"{}\"/>\
             <text x=\"{:.1}\" y=\"{text}\">{}</text>",
            LABEL - 8.0,
            bar.label,
            BAR - 5.0,
            bar.colour,
            LABEL + width + 6.0,
            bar.shown
        );
        y += BAR;
    }
    y
}
