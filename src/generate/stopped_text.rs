//! A text that arrives in pieces and ends where a stop string begins.

/// The text so far. Its end is held back while it may be the beginning of a stop string.
pub struct StoppedText<'a> {
    stops: &'a [String],
    text: String,
    /// Bytes that were released. No stop string begins in them.
    released: usize,
}

impl<'a> StoppedText<'a> {
    pub fn new(stops: &'a [String]) -> Self {
        Self { stops, text: String::new(), released: 0 }
    }

    /// Adds a piece, cuts the text at the first stop string, and returns whether there was one.
    pub fn push(&mut self, piece: &str) -> bool {
        self.text.push_str(piece);
        let new = &self.text[self.released..];
        let Some(at) = self.stops.iter().filter_map(|stop| new.find(stop)).min() else { return false };
        self.text.truncate(self.released + at);
        true
    }

    /// The text that became certain since the last call.
    pub fn release(&mut self) -> &str {
        let new = &self.text[self.released..];
        let may_stop = |at: &usize| self.stops.iter().any(|stop| stop.starts_with(&new[*at..]));
        let held = new.char_indices().map(|(at, _)| at).find(may_stop).unwrap_or(new.len());
        self.released += held;
        &self.text[self.released - held..self.released]
    }

    /// The rest of the text, to which nothing will be added.
    pub fn rest(&mut self) -> &str {
        &self.text[std::mem::replace(&mut self.released, self.text.len())..]
    }

    pub fn into_text(self) -> String {
        self.text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Pushes pieces up to a stop string; returns the pieces that are released and the text.
    fn cut(stops: &[&str], pieces: &[&str]) -> (Vec<String>, String) {
        let stops: Vec<String> = stops.iter().map(ToString::to_string).collect();
        let mut text = StoppedText::new(&stops);
        let mut released = vec![];
        for piece in pieces {
            if text.push(piece) {
                break;
            }
            released.push(text.release().to_string());
        }
        released.push(text.rest().to_string());
        (released, text.into_text())
    }

    #[test]
    fn the_first_stop_string_ends_the_text_wherever_pieces_end() {
        let stops = ["\n\n", "STOP"];
        assert_eq!(cut(&stops, &["a\nb ST", "O", "P c\n\n"]).1, "a\nb ");
        assert_eq!(cut(&stops, &["aSTOP b\n\n"]).1, "a");
        assert_eq!(cut(&stops, &["\n", "\nSTOP"]).1, "");
        assert_eq!(cut(&stops, &["a\n", "ST", "O"]).1, "a\nSTO");
        assert_eq!(cut(&[], &["a\n\n", "b"]).1, "a\n\nb");
    }

    #[test]
    fn released_pieces_make_up_the_text_without_a_stop_string() {
        let (released, text) = cut(&["ß→x"], &["aß", "→", "yß→", "x"]);
        assert_eq!((released.join("|").as_str(), text.as_str()), ("a||ß→y|", "aß→y"));
        assert_eq!(cut(&["ab"], &["ca", "a"]), (vec!["c".into(), "a".into(), "a".into()], "caa".into()));
    }
}
