//! Tables of medians and ratios.

use std::fs;

/// A figure of several rounds.
#[derive(Clone, Debug, Default)]
pub struct Figure(Vec<f64>);

/// The tables of a run.
#[derive(Default)]
pub struct Page(String);

impl Figure {
    pub fn add(&mut self, value: f64) {
        self.0.push(value);
    }

    pub fn median(&self) -> f64 {
        self.sorted()[self.0.len() / 2]
    }

    /// This figure by the other, round by round.
    pub fn by(&self, other: &Self) -> Self {
        Self(
            self.0
                .iter()
                .zip(&other.0)
                .map(|(own, other)| own / other)
                .collect(),
        )
    }

    /// The median, and from where to where it went.
    pub fn spread(&self) -> String {
        let sorted = self.sorted();
        format!(
            "{:.2} ({:.2} to {:.2})",
            self.median(),
            sorted[0],
            sorted[sorted.len() - 1]
        )
    }

    fn sorted(&self) -> Vec<f64> {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        sorted
    }
}

impl Page {
    /// Begins a table.
    pub fn table(&mut self, title: &str, columns: &[&str]) {
        self.line(&format!("\n### {title}\n"));
        self.row(columns);
        self.line(&format!("|{}", "---|".repeat(columns.len())));
    }

    pub fn row(&mut self, cells: &[&str]) {
        self.line(&format!("| {} |", cells.join(" | ")));
    }

    fn line(&mut self, line: &str) {
        println!("{line}");
        self.0.push_str(line);
        self.0.push('\n');
    }

    /// Puts the tables in the place of those before, between the marks of a command of the
    /// Makefile.
    pub fn write(&self, path: &str, command: &str) {
        const END: &str = "<!-- to here -->\n";
        let begin = format!("<!-- make {command} writes from here -->\n");
        let page = fs::read_to_string(path).expect("the page");
        let (head, rest) = page.split_once(&begin).expect("the first mark");
        let (_, tail) = rest.split_once(END).expect("the second mark");
        fs::write(path, format!("{head}{begin}{}\n{END}{tail}", self.0))
            .expect("to write the page");
    }
}
