//! How are columns aligned? As Go's `text/tabwriter` with spaces does, so that tables are istioctl's byte for byte.
//!
//! Cells are separated by tabs. A column is a run of neighbouring lines that all have a tab-ended cell there; the last
//! cell of a line belongs to no column and is not padded.

/// Aligns `text` with `padding` spaces between columns.
pub(crate) fn align(text: &str, padding: usize) -> String {
    let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split('\t').collect()).collect();
    let mut widths: Vec<Vec<usize>> = lines.iter().map(|cells| vec![0; cells.len() - 1]).collect();
    let columns = widths.iter().map(Vec::len).max().unwrap_or(0);
    for column in 0..columns {
        let mut start = 0;
        while start < lines.len() {
            if widths[start].len() <= column {
                start += 1;
                continue;
            }
            let end = (start..lines.len()).find(|line| widths[*line].len() <= column).unwrap_or(lines.len());
            let widest = (start..end).map(|line| lines[line][column].chars().count()).max().unwrap_or(0);
            for line in &mut widths[start..end] {
                line[column] = widest + padding;
            }
            start = end;
        }
    }
    let mut out = String::new();
    for (cells, widths) in lines.iter().zip(&widths) {
        for (cell, width) in cells.iter().zip(widths.iter().map(Some).chain([None])) {
            match width {
                Some(width) => out.push_str(&format!("{cell:<width$}")),
                None => out.push_str(cell),
            }
        }
        out.push('\n');
    }
    out
}

/// Joins rows of cells with tabs, then aligns.
pub(crate) fn table<R: AsRef<[String]>>(rows: impl IntoIterator<Item = R>, padding: usize) -> String {
    let text: String = rows.into_iter().map(|row| row.as_ref().join("\t") + "\n").collect();
    align(&text, padding)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, padding: usize, expect: &str) {
        assert_eq!(align(text, padding), expect);
    }

    #[test]
    fn like_go() {
        check("A\tB\naaa\tb\n", 1, "A   B\naaa b\n");
        check("A\tB\t\naaa\tb\t\n", 2, "A    B  \naaa  b  \n");
        check("x\ny\tz\n", 5, "x\ny     z\n");
        check("aa\tb\n-\nc\td\n", 1, "aa b\n-\nc d\n");
    }
}
