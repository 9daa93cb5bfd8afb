//! Shows the rows of a run: how many there are, and the first as the model reads it.

use crate::cli::console::Console;
use crate::data::LengthReport;

/// Most characters of a part of a row that is not learned.
const MOST_SHOWN: usize = 800;

/// Shows the first row, with what is learned between brackets.
pub fn example(console: Console, pieces: &[(String, bool)]) {
    let text = |(piece, is_learned): &(String, bool)| match (is_learned, piece.chars().count()) {
        (true, _) => format!("⟦{piece}⟧"),
        (false, length) if length > MOST_SHOWN => {
            let start: String = piece.chars().take(MOST_SHOWN / 2).collect();
            let end: String = piece.chars().skip(length - MOST_SHOWN / 2).collect();
            format!("{start} […] {end}")
        }
        (false, _) => piece.clone(),
    };
    let text: String = pieces.iter().map(text).collect();
    console.note(&format!("the first row, with what is learned in ⟦ ⟧:\n{}", text.trim_end()));
}

/// Shows how many rows are used, and why others are not.
pub fn counts(console: Console, set: &str, kept: usize, lengths: &LengthReport) {
    let LengthReport { rows, dropped, truncated, unlearned, split, reopened, longest, .. } = lengths;
    if *unlearned > 0 {
        let what = "have nothing to learn, such as a turn of the assistant, and are left out";
        console.note(&format!("{set}: {unlearned} of {rows} rows {what}"));
    }
    if *split > 0 {
        let what = "are learned turn by turn, because the chat template writes earlier turns differently";
        console.note(&format!("{set}: {split} of {rows} chats {what}"));
    }
    if *reopened > 0 {
        let what =
            "have an answer that the chat template does not write right after the prompt that opens it";
        console.note(&format!("{set}: {reopened} of {rows} chats {what}"));
    }
    match set {
        "data" if dropped + truncated == 0 => {}
        "data" => {
            console.note(&format!("{dropped} of {rows} rows dropped, {truncated} truncated"));
        }
        _ => console.note(&format!(
            "{set}: {kept} of {rows} rows ({dropped} dropped, {truncated} truncated), up to {longest} tokens"
        )),
    }
}
