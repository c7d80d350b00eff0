"""The operator's page: what runs, what went wrong, and what to do about it, in a web browser.

It is a part of the admin listener, and is loaded only with it. To add a section:

* a module here with ``NAME`` (the first part of its path and its key in the navigation) and ``routes(site)``, which
  gives the list of its routes; then its row in ``application.SECTIONS``, and a module of its words in
  :mod:`.texts`, with ``nav.<NAME>`` among them;
* ``site.get(path, endpoint)`` is for what only shows something: ``async def endpoint(request) -> Response``;
* ``site.post(path, endpoint)`` is for what changes something: ``async def endpoint(request, form) -> Response``. The
  CSRF token has been checked; ``form`` is a :class:`~.forms.Form`. Log the change with :meth:`Visitor.changed`, and
  answer with ``site.redirect(request, "spool", done="held", count=3)``: the next page then says ``done.held``;
* ``site.render(request, "spool.html", …)`` gives the page; ``visitor_of(request)`` who asks;
* ``site.sources`` has all that a page can read of the running service;
* a long answer is ``site.stream(request, pieces, media_type)``: without it the listener cuts an answer off after a
  minute.

Templates extend ``base.html`` and import ``macros.html``. Every form that posts has ``{{ csrf }}`` in it. Links are
relative, so that the page works below any path of a reverse proxy: begin each with ``{{ root }}``. Words stand in
:mod:`.texts` and nowhere else, ``{{ t("spool.title") }}``. A moment is shown with ``{{ moment | when }}``, octets with
``{{ octets | size }}``. Everything is escaped; never use ``|safe``. The Content-Security-Policy allows no inline script
and no inline style: a class in ``style.css``, or an attribute for ``script.js``.
"""
