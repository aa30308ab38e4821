//! The chart: one SVG with two panels, rates and processor time relative to the reference.
//!
//! Bars start at 1 and grow on a logarithmic axis, so that twice as fast and half as fast are equally long. Written by
//! hand because a plotting library would be the bench's biggest dependency.

use std::fmt::Write as _;

use crate::report::{Report, Row, number};

const ROW_HEIGHT: f64 = 16.0;
const GROUP_GAP: f64 = 10.0;
const TOP: f64 = 74.0;
const LABELS: f64 = 130.0;
const PANEL: f64 = 320.0;
const GAP: f64 = 30.0;
/// Ends of the axis; bars beyond are cut, their numbers are not.
const AXIS: (f64, f64) = (0.05, 50.0);
const TICKS: [f64; 7] = [0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 20.0];
/// One for each target that is compared, dark enough for white paper and told apart by the colour-blind.
const COLOURS: [&str; 4] = ["#0072b2", "#e69f00", "#009e73", "#cc79a7"];

/// The report as SVG. Targets that are the reference have no bar: they are the line at 1.
#[must_use]
pub fn svg(report: &Report) -> String {
    let compared: Vec<&str> =
        report.targets.iter().map(|target| target.name.as_str()).filter(|name| *name != report.reference).collect();
    let group = compared.len() as f64 * ROW_HEIGHT + GROUP_GAP;
    let height = TOP + report.scenarios.len() as f64 * group + 34.0;
    let width = LABELS + 2.0 * PANEL + 2.0 * GAP;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" viewBox=\"0 0 {width} {height}\" \
         font-family=\"sans-serif\" font-size=\"11\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
    );
    let subtitle = format!(
        "{} cores, {}, {} rounds of {} s",
        report.machine.cores, report.machine.filesystem, report.rounds, report.round_s
    );
    text(&mut svg, 10.0, 20.0, "start", &format!("{} (line at 1: {}) · {subtitle}", report.name, report.reference));
    legend(&mut svg, &compared);
    let panels = [
        ("requests per second, longer right is faster", 0.0),
        ("CPU per request, longer left is cheaper", PANEL + GAP),
    ];
    for (title, shift) in panels {
        axis(&mut svg, LABELS + shift, height - 24.0, title);
    }
    for (at, result) in report.scenarios.iter().enumerate() {
        let y = TOP + at as f64 * group;
        let middle = y + (group - GROUP_GAP) / 2.0 + 4.0;
        text(&mut svg, LABELS - 8.0, middle, "end", result.scenario.name);
        for (line, name) in compared.iter().enumerate() {
            let Some(row) = result.rows.iter().find(|row| row.target == **name) else { continue };
            let y = y + line as f64 * ROW_HEIGHT;
            bars(&mut svg, y, COLOURS[line % COLOURS.len()], row);
        }
    }
    svg += "</svg>\n";
    svg
}

fn legend(svg: &mut String, compared: &[&str]) {
    for (at, name) in compared.iter().enumerate() {
        let x = 10.0 + at as f64 * 140.0;
        let colour = COLOURS[at % COLOURS.len()];
        let _ = writeln!(svg, "<rect x=\"{x}\" y=\"30\" width=\"10\" height=\"10\" fill=\"{colour}\"/>");
        text(svg, x + 14.0, 39.0, "start", name);
    }
}

fn axis(svg: &mut String, left: f64, bottom: f64, title: &str) {
    text(svg, left + PANEL / 2.0, 56.0, "middle", title);
    for tick in TICKS {
        let x = left + place(tick);
        let colour = if tick == 1.0 { "#000" } else { "#ddd" };
        let from = TOP - 8.0;
        let _ = writeln!(svg, "<line x1=\"{x:.1}\" y1=\"{from}\" x2=\"{x:.1}\" y2=\"{bottom}\" stroke=\"{colour}\"/>");
        text(svg, x, bottom + 14.0, "middle", &tick.to_string());
    }
}

fn bars(svg: &mut String, y: f64, colour: &str, row: &Row) {
    let values = [(row.ratio.map(|ratio| ratio.median), 0.0), (row.cpu_ratio, PANEL + GAP)];
    for (value, shift) in values {
        let Some(value) = value else { continue };
        let (one, end) = (LABELS + shift + place(1.0), LABELS + shift + place(value));
        let (x, width) = (one.min(end), (one - end).abs());
        let height = ROW_HEIGHT - 3.0;
        let _ = writeln!(
            svg,
            "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height}\" fill=\"{colour}\"/>"
        );
        let (at, anchor) = if end < one { (end - 3.0, "end") } else { (end + 3.0, "start") };
        text(svg, at, y + 10.0, anchor, &number(value));
    }
}

/// Distance of a ratio from the left end of a panel.
fn place(value: f64) -> f64 {
    let value = value.clamp(AXIS.0, AXIS.1);
    PANEL * (value / AXIS.0).ln() / (AXIS.1 / AXIS.0).ln()
}

fn text(svg: &mut String, x: f64, y: f64, anchor: &str, text: &str) {
    let safe = text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    let _ = writeln!(svg, "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{safe}</text>");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_compared_target_has_a_bar_where_it_has_a_ratio() {
        let svg = svg(&crate::report::tests::example());
        assert_eq!(svg.matches("fill=\"#0072b2\"").count(), 4, "the legend, two rates, one processor time");
        assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>\n"));
        assert!(svg.contains(">3.00</text>"));
    }

    #[test]
    fn ratios_and_their_inverse_are_equally_far_from_one() {
        let distance = |value| (place(value) - place(1.0)).abs();
        assert!((distance(4.0) - distance(0.25)).abs() < 1e-9);
        assert_eq!(place(1e9), PANEL);
        assert_eq!(place(0.0), 0.0);
    }
}
