//! One family as text, in blocks of a few skills each. A block is written anew only where something in it changed, and
//! then what stands between the values is taken from the text before: a scrape costs what changed since the last one.

use bytes::Bytes;

use super::family_kind::{FamilyKind, Sample, Value};
use super::format::Format;
use super::gzip::{CompressedChunk, GzipEncoder};
use super::view::SkillView;

/// Every line of one family.
///
/// Invariant: a block that is not stale is the text of its skills as the view has them. What breaks it is a change to a
/// skill without [`FamilyText::mark`].
#[derive(Debug)]
pub(super) struct FamilyText {
    kind: FamilyKind,
    /// In no order; a block's place never changes.
    blocks: Vec<Block>,
    /// Places of blocks, by the names of their skills.
    order: Vec<u32>,
    /// The block of each skill, by the skill's own place.
    block_of: Vec<u32>,
    stale: Vec<u32>,
}

#[derive(Debug, Default)]
struct Block {
    /// Places of skills, by name. Never empty.
    skills: Vec<u32>,
    text: Bytes,
    /// The value of each line.
    values: Vec<Written>,
    compressed: Option<CompressedChunk>,
    /// Whether OpenMetrics has exemplars, and times of birth, in between.
    has_exemplars: bool,
    has_created: bool,
    /// The text with these, compressed, and whether it tells of created.
    compressed_with_suffixes: Option<(bool, CompressedChunk)>,
    staleness: Staleness,
}

/// A value in a text.
#[derive(Debug, Clone, Copy)]
struct Written {
    bits: u64,
    begin: u32,
    end: u32,
}

/// What of a skill is not in the text yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(super) enum Staleness {
    /// Nothing.
    #[default]
    Fresh,
    /// Values of lines that are there.
    Values,
    /// There are other lines.
    Lines,
}

impl FamilyText {
    pub fn new(kind: FamilyKind) -> Self {
        Self { kind, blocks: Vec::new(), order: Vec::new(), block_of: Vec::new(), stale: Vec::new() }
    }

    /// Every skill's place, by name.
    pub fn skills(&self) -> impl Iterator<Item = usize> {
        self.order.iter().flat_map(|&block| self.blocks[block as usize].skills.iter().map(|&place| place as usize))
    }

    /// Adds the skill at `place`, which has the next place of all.
    pub fn add(&mut self, place: usize, skills: &[SkillView]) {
        let name = |place: &u32| &*skills[*place as usize].series.skill_name;
        let added = u32::try_from(place).expect("the limit of skills is far below 2^32");
        debug_assert_eq!(self.block_of.len(), place);
        let after = self.order.partition_point(|&block| {
            self.blocks[block as usize].skills.first().is_some_and(|first| name(first) < name(&added))
        });
        // A name before all others joins the first block.
        let at = after.saturating_sub(1);
        let Some(&block) = self.order.get(at) else {
            self.order.push(0);
            self.blocks.push(Block { skills: vec![added], ..Block::default() });
            self.block_of.push(0);
            return self.mark(place, Staleness::Lines);
        };
        self.block_of.push(block);
        let members = &mut self.blocks[block as usize].skills;
        let position = members.partition_point(|other| name(other) < name(&added));
        members.insert(position, added);
        if members.len() > 2 * self.kind.block_skills() {
            // In the order of names a half would stay as it is for ever.
            let kept = if position + 1 == members.len() { members.len() - 1 } else { members.len() / 2 };
            let moved = members.split_off(kept);
            self.mark(place, Staleness::Lines);
            let new = u32::try_from(self.blocks.len()).expect("there are fewer blocks than skills");
            moved.iter().for_each(|&place| self.block_of[place as usize] = new);
            let first = moved[0] as usize;
            self.blocks.push(Block { skills: moved, ..Block::default() });
            self.order.insert(at + 1, new);
            self.mark(first, Staleness::Lines);
            let left = self.blocks[block as usize].skills[0] as usize;
            return self.mark(left, Staleness::Lines);
        }
        self.mark(place, Staleness::Lines);
    }

    /// Notes that something of the skill at `place` is not in the text.
    pub fn mark(&mut self, place: usize, staleness: Staleness) {
        let block = self.block_of[place];
        let known = &mut self.blocks[block as usize].staleness;
        if *known == Staleness::Fresh && staleness > Staleness::Fresh {
            self.stale.push(block);
        }
        *known = staleness.max(*known);
    }

    /// Writes what is stale.
    pub fn refresh(&mut self, skills: &[SkillView]) {
        for place in self.stale.drain(..) {
            let block = &mut self.blocks[place as usize];
            match std::mem::take(&mut block.staleness) {
                Staleness::Fresh => {}
                Staleness::Values => block.write_values(self.kind, skills),
                Staleness::Lines => block.write_lines(self.kind, skills),
            }
        }
    }

    /// Every block's text, in order. Nothing may be stale.
    pub fn texts(&self, format: Format, skills: &[SkillView]) -> impl Iterator<Item = Bytes> {
        debug_assert!(self.stale.is_empty());
        let blocks =
            self.order.iter().map(|&block| &self.blocks[block as usize]).filter(|block| !block.text.is_empty());
        blocks.map(move |block| match block.suffixes(format) {
            None => block.text.clone(),
            Some(with_created) => block.with_suffixes(self.kind, skills, with_created).into(),
        })
    }

    /// The same compressed.
    pub fn each_compressed(
        &mut self,
        format: Format,
        skills: &[SkillView],
        encoder: &mut GzipEncoder,
        mut each: impl FnMut(&CompressedChunk),
    ) {
        debug_assert!(self.stale.is_empty());
        for &block in &self.order {
            let block = &mut self.blocks[block as usize];
            if block.text.is_empty() {
                continue;
            }
            let Some(with_created) = block.suffixes(format) else {
                each(block.compressed.get_or_insert_with(|| encoder.compress(&block.text)));
                continue;
            };
            let known = block.compressed_with_suffixes.take().filter(|(has_created, _)| *has_created == with_created);
            let compressed = known.unwrap_or_else(|| {
                (with_created, encoder.compress(&block.with_suffixes(self.kind, skills, with_created)))
            });
            each(&block.compressed_with_suffixes.insert(compressed).1);
        }
    }
}

impl Block {
    fn write_lines(&mut self, kind: FamilyKind, skills: &[SkillView]) {
        let mut out = Vec::with_capacity(self.text.len());
        self.values.clear();
        for &place in &self.skills {
            kind.each_sample(&skills[place as usize], |sample| {
                sample.write_series(&mut out);
                self.values.push(push_value(sample.value, &mut out));
                out.push(b'\n');
            });
        }
        self.values.shrink_to_fit();
        self.replace(out.into_boxed_slice().into(), kind, skills);
    }

    fn replace(&mut self, text: Bytes, kind: FamilyKind, skills: &[SkillView]) {
        let suffixes = self.skills.iter().map(|&place| kind.has_suffixes(&skills[place as usize]));
        (self.has_exemplars, self.has_created) = suffixes.fold((false, false), |a, b| (a.0 | b.0, a.1 | b.1));
        self.text = text;
        self.compressed = None;
        self.compressed_with_suffixes = None;
    }

    /// Whether `format` has this block with times of birth or without; `None` where it is the same in both formats.
    fn suffixes(&self, format: Format) -> Option<bool> {
        let Format::OpenMetrics { with_created } = format else { return None };
        let with_created = with_created && self.has_created;
        (with_created || self.has_exemplars).then_some(with_created)
    }

    fn with_suffixes(&self, kind: FamilyKind, skills: &[SkillView], with_created: bool) -> Vec<u8> {
        let text = &*self.text;
        let mut out = Vec::with_capacity(text.len() + text.len() / 8);
        let mut copied = 0;
        let mut values = self.values.iter();
        for &place in &self.skills {
            let mut suffixes = kind.suffixes(&skills[place as usize]).into_iter();
            kind.each_sample(&skills[place as usize], |sample| {
                let suffix = suffixes.next().unwrap_or_default();
                let end = values.next().expect("nothing is stale").end as usize;
                out.extend_from_slice(&text[copied..end]);
                Sample::write_exemplar(suffix, &mut out);
                out.push(b'\n');
                copied = end + 1;
                if with_created {
                    sample.write_created(suffix, &mut out);
                }
            });
        }
        out
    }

    /// The lines are those of the text before: only values that changed are written, and what stands between two of them
    /// is copied at once.
    fn write_values(&mut self, kind: FamilyKind, skills: &[SkillView]) {
        let before = &*self.text;
        let mut out = Vec::with_capacity(before.len() + before.len() / 64 + 16);
        let mut copied = 0_u32;
        let mut values = self.values.iter_mut();
        for &place in &self.skills {
            kind.each_sample(&skills[place as usize], |sample| {
                let written = values.next().expect("who adds a line marks it");
                if written.bits == sample.value.bits() {
                    // What is still to be copied up to here keeps its length.
                    let begin = position(&out) + (written.begin - copied);
                    *written = Written { begin, end: begin + (written.end - written.begin), ..*written };
                } else {
                    out.extend_from_slice(&before[copied as usize..written.begin as usize]);
                    copied = written.end;
                    *written = push_value(sample.value, &mut out);
                }
            });
        }
        out.extend_from_slice(&before[copied as usize..]);
        self.replace(out.into(), kind, skills);
    }
}

fn push_value(value: Value, out: &mut Vec<u8>) -> Written {
    let begin = position(out);
    value.with_text(|text| out.extend_from_slice(text));
    Written { bits: value.bits(), begin, end: position(out) }
}

/// A block holds a few skills, whose lines the limits of labels and phases keep far below 4 GiB.
fn position(out: &[u8]) -> u32 {
    u32::try_from(out.len()).expect("a block is far smaller than 4 GiB")
}
