"""The analysis of ratings: pure functions of the tidy table of userstudy/ratings.py.

Estimators and what simulations say of them are described in docs/user-study.md.
"""
