//! What each bench is told.

use lab::Progress;

/// Which rows of a bench to run, and how much of each.
#[derive(Clone, Debug)]
pub struct Options<Row, Scale> {
    /// These rows, or all when empty.
    pub only: Vec<Row>,
    /// How much of each.
    pub scale: Scale,
    /// How the start is shown.
    pub progress: Progress,
}

impl<Row: PartialEq, Scale> Options<Row, Scale> {
    /// Those of `all` that are to run, in their order.
    pub(crate) fn rows(&self, all: impl IntoIterator<Item = Row>) -> Vec<Row> {
        all.into_iter().filter(|row| self.only.is_empty() || self.only.contains(row)).collect()
    }
}
