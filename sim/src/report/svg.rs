//! Pieces of drawings.

use std::fmt::Write;

/// Width of every drawing, and where its time begins and ends.
pub const WIDTH: f64 = 1140.0;
pub const LEFT: f64 = 92.0;
pub const RIGHT: f64 = 1130.0;

/// Text, safe within HTML.
pub fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// Where moments are.
#[derive(Clone, Copy)]
pub struct Axis {
    /// The run's end, in ns.
    pub took: u64,
}

impl Axis {
    /// Where a moment is.
    pub fn x(self, at: u64) -> f64 {
        LEFT + (RIGHT - LEFT) * (at.min(self.took) as f64 / self.took.max(1) as f64)
    }

    /// Lines at round moments, and their names below `height`.
    pub fn grid(self, out: &mut String, height: f64) {
        let seconds = self.took as f64 / 1e9;
        let steps = [1.0, 2.0, 5.0, 10.0, 20.0, 60.0, 300.0, 900.0, 3_600.0, 7_200.0, 14_400.0, 86_400.0];
        let step = steps.into_iter().find(|step| seconds / step <= 14.0).unwrap_or(86_400.0);
        let mut at = 0.0;
        while at <= seconds {
            let x = self.x((at * 1e9) as u64);
            let _ = write!(out, "<line class=grid x1={x:.1} x2={x:.1} y1=0 y2={height} />");
            let name = if step >= 3_600.0 {
                format!("{:.0} h", at / 3_600.0)
            } else if step >= 60.0 {
                format!("{:.0} min", at / 60.0)
            } else {
                format!("{at:.0} s")
            };
            let _ = write!(out, "<text x={x:.1} y={:.1} text-anchor=middle>{name}</text>", height + 14.0);
            at += step;
        }
    }
}

/// Opens a drawing of this height, with room for the names of moments below.
pub fn open(height: f64) -> String {
    format!(
        "<svg viewBox=\"0 -10 {WIDTH} {}\" role=img><defs><pattern id=hatch width=5 height=5 patternUnits=userSpaceOnUse \
         patternTransform=\"rotate(45)\"><rect width=5 height=5 style=\"fill:var(--down)\"/><line x1=0 x2=0 y1=0 y2=5 \
         style=\"stroke:var(--hatch);stroke-width:2\"/></pattern></defs>",
        height + 30.0
    )
}

/// A bar from one moment to another, with words that show when it is pointed at.
pub fn bar(out: &mut String, class: &str, (from, until): (f64, f64), (y, height): (f64, f64), title: &str) {
    let width = (until - from).max(1.2);
    let _ = write!(
        out,
        "<rect class=\"{class}\" x={from:.1} y={y:.1} width={width:.1} height={height:.1} rx=2><title>{}</title></rect>",
        escape(title)
    );
}
