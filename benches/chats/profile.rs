//! How much of everything a folder holds, and how much comes each day.
//!
//! `WEEK` and `LARGE` follow real folders: a family's message database with its pictures, and a
//! WhatsApp backup of 7.6 GB that its owner described (24,169 photos, 30,555 other media files,
//! 953,684 messages, 3.0 GB of video; B16f00t/whapa#48).

/// Counts of media files; a tenth of the pictures comes on top as forwarded copies.
#[derive(Clone, Copy, Debug)]
pub struct Media {
    /// Pictures that are different from each other.
    pub pictures: u64,
    /// Pictures that repeat another one byte for byte.
    pub forwards: u64,
    /// Videos.
    pub videos: u64,
    /// Voice notes.
    pub voice_notes: u64,
    /// Stickers.
    pub stickers: u64,
    /// Documents.
    pub documents: u64,
    /// Media of the Signal archive.
    pub signal: u64,
}

/// What happens in one day.
#[derive(Clone, Copy, Debug)]
pub struct Daily {
    /// Messages that arrive in the database.
    pub messages: u64,
    /// Messages whose status changes, as when they are read.
    pub updates: u64,
    /// Messages deleted.
    pub deletions: u64,
    /// New media.
    pub media: Media,
    /// Messages appended to the Telegram export.
    pub export_messages: u64,
    /// Photos among them.
    pub export_photos: u64,
}

/// A kind of user.
#[derive(Clone, Copy, Debug)]
pub struct Profile {
    /// What `--profile` calls it.
    pub name: &'static str,
    /// Messages in the oldest kept database.
    pub messages: u64,
    /// Dated database copies that exist on day 0, at most 7.
    pub history: u32,
    /// Days before day 0 over which media and messages are spread.
    pub span: u32,
    /// Media on day 0.
    pub media: Media,
    /// Median bytes of a picture.
    pub picture: u64,
    /// Sizes of media files are divided by this, for small tests.
    pub shrink: u64,
    /// Messages in the Telegram export on day 0.
    pub export_messages: u64,
    /// Photos among them.
    pub export_photos: u64,
    /// What each later day brings.
    pub daily: Daily,
}

impl Profile {
    /// About 2 MB, for tests.
    pub const TINY: Self = Self {
        name: "tiny",
        messages: 200,
        history: 1,
        span: 40,
        media: Media {
            pictures: 30,
            forwards: 3,
            videos: 2,
            voice_notes: 12,
            stickers: 6,
            documents: 4,
            signal: 8,
        },
        picture: 120_000,
        shrink: 24,
        export_messages: 200,
        export_photos: 4,
        daily: Daily {
            messages: 8,
            updates: 5,
            deletions: 1,
            media: Media {
                pictures: 4,
                forwards: 1,
                videos: 0,
                voice_notes: 1,
                stickers: 0,
                documents: 0,
                signal: 1,
            },
            export_messages: 6,
            export_photos: 1,
        },
    };

    /// About 300 MB with something of every kind.
    pub const DEMO: Self = Self {
        name: "demo",
        messages: 12_000,
        history: 2,
        span: 500,
        media: Media {
            pictures: 600,
            forwards: 60,
            videos: 8,
            voice_notes: 500,
            stickers: 150,
            documents: 20,
            signal: 120,
        },
        picture: 120_000,
        shrink: 1,
        export_messages: 8_000,
        export_photos: 60,
        daily: Daily {
            messages: 200,
            updates: 120,
            deletions: 5,
            media: Media {
                pictures: 40,
                forwards: 10,
                videos: 1,
                voice_notes: 12,
                stickers: 2,
                documents: 1,
                signal: 4,
            },
            export_messages: 100,
            export_photos: 2,
        },
    };

    /// About 343 MB on day 0: a database, pictures and an export, nothing else, so that figures
    /// compare with the week of uploads measured for other programs.
    pub const WEEK: Self = Self {
        name: "week",
        messages: 46_500,
        history: 0,
        span: 700,
        media: Media {
            pictures: 1500,
            forwards: 150,
            videos: 0,
            voice_notes: 0,
            stickers: 0,
            documents: 0,
            signal: 0,
        },
        picture: 120_000,
        shrink: 1,
        export_messages: 18_000,
        export_photos: 0,
        daily: Daily {
            messages: 200,
            updates: 120,
            deletions: 5,
            media: Media {
                pictures: 40,
                forwards: 10,
                videos: 0,
                voice_notes: 0,
                stickers: 0,
                documents: 0,
                signal: 0,
            },
            export_messages: 100,
            export_photos: 0,
        },
    };

    /// About 7.6 GB: the real folder of the module's comment.
    pub const LARGE: Self = Self {
        name: "large",
        messages: 953_684,
        history: 0,
        span: 2000,
        media: Media {
            pictures: 21_972,
            forwards: 2_197,
            videos: 500,
            voice_notes: 24_000,
            stickers: 5_955,
            documents: 100,
            signal: 0,
        },
        picture: 73_000,
        shrink: 1,
        export_messages: 60_000,
        export_photos: 0,
        daily: Daily {
            messages: 500,
            updates: 300,
            deletions: 12,
            media: Media {
                pictures: 60,
                forwards: 15,
                videos: 2,
                voice_notes: 30,
                stickers: 5,
                documents: 1,
                signal: 0,
            },
            export_messages: 200,
            export_photos: 0,
        },
    };

    /// All of them.
    pub const ALL: [&'static Self; 4] = [&Self::TINY, &Self::DEMO, &Self::WEEK, &Self::LARGE];

    /// The profile of that name.
    pub fn named(name: &str) -> Option<&'static Self> {
        Self::ALL.into_iter().find(|profile| profile.name == name)
    }
}
