//! SVG text: two kinds of panels, bars in groups and ranges on a logarithmic axis. Colours follow what the reader prefers
//! (`prefers-color-scheme`); the same figures give the same bytes.

use std::fmt::Write;

/// Height of a line of text, and what is left around panels.
const LINE: f64 = 16.0;
const MARGIN: f64 = 16.0;
/// Room for a panel's title and for the labels below it.
const HEAD: f64 = 30.0;
const FOOT: f64 = 26.0;
/// Room for the names of a range panel's rows.
const NAMES: f64 = 104.0;
const ROW: f64 = 22.0;

/// Series colours, for light and for dark: told apart by those who do not see all colours, too.
const STYLE: &str = "text{font:12px system-ui,sans-serif;fill:#3b3f46}.t{font-weight:600;font-size:14px;fill:#16181d}\
.h{font-weight:600}.v{font-size:10.5px}.m{fill:#6b7079}.b{fill:#fff}.g{stroke:#d9dce1;fill:none}.r{stroke:#6b7079;stroke-dasharray:4 3;fill:none}\
.s0{fill:#2a6fdb;stroke:#2a6fdb}.s1{fill:#e07b1a;stroke:#e07b1a}.s2{fill:#8d6cc9;stroke:#8d6cc9}.s3{fill:#1f9e89;stroke:#1f9e89}.s4{fill:#c2476b;stroke:#c2476b}\
@media(prefers-color-scheme:dark){text{fill:#c4c8cf}.t{fill:#f2f3f5}.m{fill:#9aa0aa}.b{fill:#14161a}.g{stroke:#383c44}.r{stroke:#9aa0aa}\
.s0{fill:#6aa5f7;stroke:#6aa5f7}.s1{fill:#f2a65a;stroke:#f2a65a}.s2{fill:#b79cf0;stroke:#b79cf0}.s3{fill:#4fd1b8;stroke:#4fd1b8}.s4{fill:#f0809f;stroke:#f0809f}}";

/// A drawing that grows downwards.
pub struct Drawing {
    width: f64,
    height: f64,
    body: String,
}

/// Bars side by side in groups.
pub struct Bars<'a> {
    pub title: &'a str,
    /// Below each group.
    pub groups: Vec<String>,
    /// For each series its colour and its value in each group; none = no bar.
    pub values: Vec<(usize, Vec<Option<f64>>)>,
    /// A line at this height.
    pub reference: Option<f64>,
    pub shown: fn(f64) -> String,
}

/// Rows with three marks each.
pub struct Ranges<'a> {
    pub title: &'a str,
    /// Name, series, and the values from left to right.
    pub rows: Vec<(String, usize, [f64; 3])>,
    pub unit: &'a str,
}

impl Drawing {
    pub fn new(width: f64, title: &str, below: &str) -> Self {
        let mut drawing = Self { width, height: MARGIN, body: String::new() };
        drawing.height += LINE;
        drawing.text(MARGIN, drawing.height - 3.0, "t", "start", title);
        drawing.height += LINE;
        drawing.text(MARGIN, drawing.height, "m", "start", below);
        drawing.height += LINE / 2.0;
        drawing
    }

    /// Which colour is which.
    pub fn legend(&mut self, names: &[(usize, &str)]) {
        self.height += LINE;
        let mut x = MARGIN;
        for (series, name) in names {
            let y = self.height - 10.0;
            let _ =
                write!(self.body, r#"<rect class="s{series}" x="{x:.1}" y="{y:.1}" width="10" height="10" rx="2"/>"#);
            self.text(x + 15.0, self.height - 1.0, "", "start", name);
            x += 34.0 + 6.6 * name.chars().count() as f64;
        }
        self.height += LINE / 2.0;
    }

    /// Panels of bars beside each other, each with a scale of its own.
    pub fn bars(&mut self, panels: &[Bars<'_>], height: f64) {
        let width = (self.width - MARGIN * (panels.len() + 1) as f64) / panels.len().max(1) as f64;
        let top = self.height;
        for (at, panel) in panels.iter().enumerate() {
            self.bar_panel(panel, MARGIN + (width + MARGIN) * at as f64, top, width, height);
        }
        self.height = top + height + HEAD + FOOT;
    }

    fn bar_panel(&mut self, panel: &Bars<'_>, x: f64, top: f64, width: f64, height: f64) {
        self.text(x, top + 16.0, "h", "start", panel.title);
        let base = top + HEAD + height;
        let values = panel.values.iter().flat_map(|(_, values)| values).flatten().copied();
        let highest = values.chain(panel.reference).fold(0.0, f64::max).max(f64::MIN_POSITIVE);
        // The topmost value stands above its bar.
        let y = |value: f64| base - value / highest * (height - LINE);
        let group = width / panel.groups.len().max(1) as f64;
        let bar = group * 0.84 / panel.values.len().max(1) as f64;
        for (at, label) in panel.groups.iter().enumerate() {
            let left = x + group * at as f64 + group * 0.08;
            for (place, (series, values)) in panel.values.iter().enumerate() {
                let Some(value) = values.get(at).copied().flatten() else { continue };
                let (from, to) = (left + bar * place as f64, y(value));
                let (wide, tall) = (bar - 2.0, (base - to).max(0.5));
                let _ = write!(
                    self.body,
                    r#"<rect class="s{series}" x="{from:.1}" y="{to:.1}" width="{wide:.1}" height="{tall:.1}" rx="1.5"/>"#
                );
                self.text(from + wide / 2.0, to - 4.0, "v", "middle", &(panel.shown)(value));
            }
            self.text(x + group * (at as f64 + 0.5), base + 16.0, "m", "middle", label);
        }
        self.line("g", (x, base), (x + width, base));
        if let Some(reference) = panel.reference {
            self.line("r", (x, y(reference)), (x + width, y(reference)));
        }
    }

    /// One panel of ranges.
    pub fn ranges(&mut self, panel: &Ranges<'_>, lowest: f64, highest: f64) {
        let (top, left, right) = (self.height, MARGIN + NAMES, self.width - MARGIN - 50.0);
        self.text(MARGIN, top + 16.0, "h", "start", panel.title);
        let (low, high) = (lowest.log10().floor(), highest.log10().ceil());
        let x = |value: f64| left + (value.max(lowest).log10() - low) / (high - low).max(1.0) * (right - left);
        let bottom = top + HEAD + ROW * panel.rows.len() as f64;
        for exponent in low as i32..=high as i32 {
            let value = 10f64.powi(exponent);
            self.line("g", (x(value), top + HEAD - 6.0), (x(value), bottom));
            self.text(x(value), bottom + 14.0, "m", "middle", &format!("{} {}", short(value), panel.unit));
        }
        for (at, (name, series, values)) in panel.rows.iter().enumerate() {
            let y = top + HEAD + ROW * (at as f64 + 0.5) - 3.0;
            self.text(MARGIN, y + 4.0, "", "start", name);
            let (from, to) = (x(values[0]), x(values[2]));
            let _ = write!(
                self.body,
                r#"<path class="s{series}" d="M{from:.1} {y:.1}H{to:.1}" stroke-width="2"/><circle class="s{series}" cx="{from:.1}" cy="{y:.1}" r="5"/>"#
            );
            for value in &values[1..] {
                let _ = write!(
                    self.body,
                    r#"<circle class="s{series}" cx="{:.1}" cy="{y:.1}" r="4"/><circle class="b" cx="{:.1}" cy="{y:.1}" r="2"/>"#,
                    x(*value),
                    x(*value)
                );
            }
            let shown = values.map(short).join(" / ");
            self.text(to + 9.0, y + 4.0, "v", "start", &shown);
        }
        self.height = bottom + FOOT;
    }

    fn line(&mut self, class: &str, from: (f64, f64), to: (f64, f64)) {
        let _ =
            write!(self.body, r#"<path class="{class}" d="M{:.1} {:.1}L{:.1} {:.1}"/>"#, from.0, from.1, to.0, to.1);
    }

    fn text(&mut self, x: f64, y: f64, class: &str, anchor: &str, text: &str) {
        let text = text.replace('&', "&amp;").replace('<', "&lt;");
        let _ =
            writeln!(self.body, r#"<text x="{x:.1}" y="{y:.1}" class="{class}" text-anchor="{anchor}">{text}</text>"#);
    }

    /// The whole file.
    pub fn finish(self) -> String {
        let (width, height) = (self.width, self.height + MARGIN / 2.0);
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width:.0} {height:.0}\" width=\"{width:.0}\" height=\"{height:.0}\" role=\"img\">\n\
             <style>{STYLE}</style>\n{}</svg>\n",
            self.body
        )
    }
}

/// Few characters: `0.4`, `26`, `1.5k`, `10M`.
pub fn short(value: f64) -> String {
    let scaled = |value: f64, unit: &str| {
        let digits = usize::from(value < 9.95 && (value - value.round()).abs() > 0.05);
        format!("{value:.digits$}{unit}")
    };
    match value {
        value if value >= 999_500.0 => scaled(value / 1e6, "M"),
        value if value >= 999.5 => scaled(value / 1e3, "k"),
        value => scaled(value, ""),
    }
}
