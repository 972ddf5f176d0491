"""Workers: stateless processes that run steps and answer with results.

`core` is pure; `handlers` is what authors of handlers import; `app` puts a worker together.
"""
