"""A simulated job market with planted truth, to calibrate an offline evaluation on.

What an evaluation says of real data cannot be checked; what it says of a world in which every
preference is known can. Here members act on job postings for known reasons. So an arm that ranks by
the truth shows how much can be gained, and whether the evaluation finds it. Nothing measured on it
says anything about real members.

The story, each part with a setting in `settings.MarketSettings`:

- A *posting* is a real O*NET occupation, its title and description as they are, at some level. Its
  true vector is made from the text (TF-IDF and truncated SVD) plus a little of its own. It is
  posted at some moment, shown from the midnight after on, and open for some weeks. Postings differ
  in exposure, with a heavy tail and fading with age, and a little in attractiveness. A level says
  nothing of either.
- A *member* is interested in work near one occupation. Some change direction now and then, mostly
  at once, else over some weeks, to a related occupation or to any.
- A member comes in *sessions*: some often, most rarely, and more in the weeks after a change of
  direction. A session shows postings by their exposure, and some that a recommender picked,
  weakly, by what the member wanted some days before. The member acts on a few of them by a
  multinomial logit on utility, which is interest plus attractiveness, or on none if none is good
  enough. In some sessions a member strays, and follows an interest in any occupation.
- An action is mostly positive, APPLY or SAVE; a DISMISS is of a recommended posting of low utility.
  Nobody acts twice on one posting.

With `--kinds` members also do other things, whose truth is known as well (see `kinds`). Acting on
jobs is the same with and without them.

- A *search* comes before a session's first action, and is a query for what is wanted in the
  session: a title, or a word or two of its description, which may fit other occupations too.
- A *change of status*, a new title or being open to work, announces some changes of direction
  before the next session. Others say where a member is going already.
- *Posts* are read whether or not the member comes for jobs. Their topics are around the direction,
  much more loosely than the jobs acted on.
- *Passive* members (`--passive`) are no active seekers: they act on jobs in one session alone, and
  until then nothing but the other kinds says what they want.

    python -m activity_embeddings.training.datasets.job_market --out DIR --members 6000 --kinds
"""

from activity_embeddings.training.datasets.job_market.market import JobMarket

__all__ = ["JobMarket"]
