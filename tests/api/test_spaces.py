"""Scores and searches of spaces from Python; what the numbers are is tested with the verbs and in `search`."""

import json

import pytest

import spaceevo
from cli.test_space_verb import write_table
from spaceevo.errors import EncodingError, RecipeError
