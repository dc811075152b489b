//! Which files of plain text are held out.

/// The held-out part is whole files if some at the end have a share of all bytes between these.
const WHOLE_FILES_SHARE: [f64; 2] = [0.4, 2.0];

/// From which file on, and from which share of that file on, the last `held_out` of files of these sizes begins: whole
/// files if some at the end have about as many bytes, and else the end of one.
pub fn held_out_files(sizes: &[u64], held_out: f64) -> (usize, f64) {
    let total: u64 = sizes.iter().sum();
    let wanted = total as f64 * held_out;
    if held_out == 0.0 || total == 0 {
        return (sizes.len(), 0.0);
    }
    let suffix = |from: usize| sizes[from..].iter().sum::<u64>() as f64;
    let is_near = |from: &usize| {
        let share = suffix(*from) / wanted;
        (WHOLE_FILES_SHARE[0]..=WHOLE_FILES_SHARE[1]).contains(&share)
    };
    let distance = |from: &usize| (suffix(*from) - wanted).abs();
    if let Some(from) = (1..sizes.len()).filter(is_near).min_by(|a, b| distance(a).total_cmp(&distance(b))) {
        return (from, 0.0);
    }
    let from = (0..sizes.len()).rev().find(|from| suffix(*from) >= wanted).unwrap_or(0);
    let after = suffix(from + 1);
    (from, 1.0 - (wanted - after) / sizes[from] as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_files_are_held_out_where_some_at_the_end_have_about_a_tenth() {
        assert_eq!(held_out_files(&[100; 10], 0.1), (9, 0.0));
        assert_eq!(held_out_files(&[100; 40], 0.1), (36, 0.0));
        assert_eq!(held_out_files(&[500, 400, 60, 40], 0.1), (2, 0.0));
        // The last one alone is too large, or too small.
        assert_eq!(held_out_files(&[100, 100], 0.1), (1, 0.8));
        assert_eq!(held_out_files(&[1000], 0.1), (0, 0.9));
        let (from, share) = held_out_files(&[990, 10], 0.1);
        assert!(from == 0 && (share - 900.0 / 990.0).abs() < 1e-9);
        assert_eq!(held_out_files(&[10, 10], 0.0), (2, 0.0));
        assert_eq!(held_out_files(&[], 0.1), (0, 0.0));
    }
}
