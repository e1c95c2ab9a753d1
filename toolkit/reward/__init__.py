"""From a reply to a number: built-in rewards, judges, and reward functions of other libraries. Read `reward` first."""
